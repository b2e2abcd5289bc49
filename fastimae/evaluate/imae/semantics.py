"""What sharing a class does to mixtures: i-MAE's study over same-class ratios (table 1).

For each ratio r: pre-train an i-MAE with a share r of mixtures whose images share a class, then
probe it, fine-tune it and measure M_sem. Each of these is a cell: a command of its own, shown
before it runs. A cell that is done is skipped, one that was stopped goes on where it was, so the
study's command can be repeated until the table is full.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import tyro

from fastimae.arguments import parse_training
from fastimae.config import OutputSettings
from fastimae.engine.checkpoint import LAST
from fastimae.engine.claim import claimed
from fastimae.evaluate.command import options_of
from fastimae.evaluate.figures.plots import COLORS, plain_style, plt, save_figure
from fastimae.evaluate.imae.cells import Cell, run_cell
from fastimae.evaluate.origin import check_result_is_of
from fastimae.evaluate.report.runs import is_finished, read_log
from fastimae.evaluate.report.tables import markdown
from fastimae.evaluate.result_files import RESULTS, read_results
from fastimae.evaluate.results import forget_results, save_results
from fastimae.flags import spelled
from fastimae.folders import write_text
from fastimae.loaders.settings import ReadSettings
from fastimae.log import log
from fastimae.settings import ConfigError, Count, Seeded, Settings, Share

PICTURE = "semantics.png"
Probe = Literal["linear", "finetune", "msem"]
NUMBER = {"linear": "acc1", "finetune": "acc1", "msem": "msem"}
"""What each task's results.json calls the number of the table."""


@dataclasses.dataclass(kw_only=True)
class SemanticsOptions(Settings):
    """Pre-train, probe and fine-tune i-MAE over same-class ratios; resumes where it was stopped.

    Flags of fastimae-train go last, after --:
    fastimae-eval semantics --ffcv a.beton --val b.beton -- --recipe imae_cifar10 --teacher mae.pth
    """

    train_flags: tyro.conf.Positional[
        Annotated[tuple[str, ...], tyro.conf.arg(metavar="-- FLAGS OF fastimae-train")]
    ] = ()
    """For every pre-training, beside data, ratio and output_dir."""
    ratios: tuple[Share, ...] = (0.0, 0.5, 1.0)
    """Shares of mixtures whose two images share a class."""
    tasks: tuple[Probe, ...] = ("linear", "finetune", "msem")
    """What each pre-trained model is put through."""
    checkpoint: Path | None = None
    """A MAE trained without mixing: the table's first row."""
    ffcv: Path | None = None
    """The .beton file to train on."""
    data_path: Path | None = None
    """A folder of class folders instead."""
    val: Path | None = None
    """The .beton file or folder to test on. None: the val/ in --data_path."""
    linear_flags: str = ""
    """Flags of fastimae-eval linear: --linear_flags="--epochs 50"."""
    finetune_flags: str = ""
    """Flags of fastimae-eval finetune, likewise."""
    msem_flags: str = ""
    """Flags of fastimae-eval msem, likewise."""
    output_dir: Path = Path("semantics")
    """A folder for each ratio, and the table."""
    device: str = OutputSettings.device
    """cuda, cuda:N, cpu, or auto."""
    num_workers: Count = ReadSettings.num_workers
    """Threads that decode."""
    seed: int = Seeded.seed
    """Of every command."""
    debug: bool = False
    """Show tracebacks."""


def run(options: SemanticsOptions) -> None:
    """Run the cells that are missing; write results.json, semantics.md and semantics.png."""
    check(options)
    check_commands(options)
    with claimed(options.output_dir):
        _run(options)


def _run(options: SemanticsOptions) -> None:
    for cell in cells(options):
        if not run_cell(cell):
            log.warning("stopped in %s: the same command goes on from there", cell.folder)
            break
    rows = table(options)
    text = markdown(rows)
    folder = options.output_dir
    forget_results(folder)
    write_text(folder / "semantics.md", text + "\n")
    draw(rows, options.tasks, folder / PICTURE)
    save_results(folder, "semantics", {"table": rows}, options, pictures=[PICTURE])
    print(text)


def check(options: SemanticsOptions) -> None:
    """Raises ConfigError for a study that cannot be run."""
    options.check()
    if (options.ffcv is None) == (options.data_path is None):
        raise ConfigError("give the images as --ffcv FILE.beton or as --data_path FOLDER")
    bare = dataclasses.replace(
        options, train_flags=(), **{f"{task}_flags": "" for task in get_args(Probe)}
    )
    ours = _flags(train_command(bare, 0.0, Path())) | {"--same_prob"}
    if taken := sorted(_flags(options.train_flags) & ours):
        raise ConfigError(f"{', '.join(taken)} after --: the study sets that itself")
    for task in options.tasks:
        ours = _flags(evaluate_command(bare, task, Path(), Path()))
        if taken := sorted(_flags(shlex.split(getattr(options, f"{task}_flags"))) & ours):
            raise ConfigError(f"{', '.join(taken)} in --{task}_flags: the study sets that itself")


def check_commands(options: SemanticsOptions) -> None:
    """Raise what cells that are to be run would, of their flags and of --val: the last ones run
    days after the first."""
    for name, checkpoint, ratio in entries(options):
        folder = options.output_dir / name
        if ratio is not None and not is_finished(folder):
            parse_training("fastimae-train", train_command(options, ratio, folder)[1:])
        for task in options.tasks:
            place = folder / f"eval-{task}"
            if not (place / RESULTS).is_file():
                command = evaluate_command(options, task, checkpoint, place)
                options_of(task, command[2:]).val_source()


def _flags(words: Sequence[str]) -> set[str]:
    return {spelled(word) for word in words if word.startswith("--")}


def cells(options: SemanticsOptions) -> Iterator[Cell]:
    """All cells of the table, in the order in which they are run."""
    for name, checkpoint, ratio in entries(options):
        folder = options.output_dir / name
        if ratio is not None:
            command = train_command(options, ratio, folder)
            yield Cell(f"pre-training, r = {ratio:g}", folder, command,
                       lambda folder=folder: is_finished(folder))  # fmt: skip
        for task in options.tasks:
            place = folder / f"eval-{task}"
            if (place / RESULTS).is_file():
                check_result_is_of(checkpoint, read_results(place), place)
            command = evaluate_command(options, task, checkpoint, place)
            yield Cell(f"{task}, {name}", place, command,
                       lambda place=place: (place / RESULTS).is_file())  # fmt: skip


def entries(options: SemanticsOptions) -> Iterator[tuple[str, Path, float | None]]:
    """(folder, checkpoint, same-class ratio) of each row of the table."""
    if options.checkpoint:
        yield "baseline", options.checkpoint, None
    for ratio in options.ratios:
        yield f"r{ratio:g}", options.output_dir / f"r{ratio:g}" / LAST, ratio


def train_command(options: SemanticsOptions, ratio: float, folder: Path) -> list[str]:
    """fastimae-train for one ratio."""
    command = ["fastimae-train", *_data(options), *_common(options), *options.train_flags]
    command += ["--objective", "imae", "--same_class_ratio", f"{ratio:g}"]
    return [*command, "--output_dir", str(folder), "--resume", "auto"]


def evaluate_command(
    options: SemanticsOptions, task: str, checkpoint: Path, folder: Path
) -> list[str]:
    """fastimae-eval of one checkpoint."""
    command = ["fastimae-eval", task, "--checkpoint", str(checkpoint)]
    command += [*_data(options), *(["--val", str(options.val)] if options.val else [])]
    command += [*_common(options), "--output_dir", str(folder)]
    if task == "linear":
        command += ["--feature_dir", str(folder.parent / "eval-features")]
    if task in ("linear", "finetune"):
        command += ["--resume", "auto"]
    return command + shlex.split(getattr(options, f"{task}_flags"))


def table(options: SemanticsOptions) -> list[dict[str, Any]]:
    """A row for each model: what is known so far, None for what is not."""
    rows = []
    for name, _, ratio in entries(options):
        folder = options.output_dir / name
        entries_of_log = read_log(folder / "log.txt")
        realised = entries_of_log[-1].get("same_class_ratio") if entries_of_log else None
        row: dict[str, Any] = {"model": name, "same_class_ratio": ratio, "realised": realised}
        for task in options.tasks:
            place = folder / f"eval-{task}"
            done = (place / RESULTS).is_file()
            row[task] = read_results(place)["numbers"].get(NUMBER[task]) if done else None
        rows.append(row)
    return rows


def draw(rows: Sequence[dict[str, Any]], tasks: Sequence[str], path: Path) -> None:
    """Each task's number over the ratio; the model without mixing as a dashed line."""
    with plain_style():
        figure, axes = plt.subplots(
            1, len(tasks), squeeze=False, figsize=(3.6 * len(tasks), 3.2), layout="constrained"
        )
        for axis, task, color in zip(axes[0], tasks, COLORS, strict=False):
            known = [row for row in rows if row[task] is not None]
            points = [(r["same_class_ratio"], r[task]) for r in known
                      if r["same_class_ratio"] is not None]  # fmt: skip
            if points:
                axis.plot(*zip(*sorted(points), strict=True), "o-", color=color)
            for row in known:
                if row["same_class_ratio"] is None:
                    axis.axhline(row[task], linestyle="--", color="gray", label=row["model"])
                    axis.legend()
            axis.set(title=task, xlabel="same-class ratio r", ylabel="top-1 accuracy (%)")
        save_figure(figure, path)


def _data(options: SemanticsOptions) -> list[str]:
    if options.ffcv:
        return ["--ffcv", str(options.ffcv)]
    return ["--data_path", str(options.data_path)]


def _common(options: SemanticsOptions) -> list[str]:
    values = {
        "--device": options.device,
        "--num_workers": options.num_workers,
        "--seed": options.seed,
    }
    return [text for flag, value in values.items() for text in (flag, str(value))]
