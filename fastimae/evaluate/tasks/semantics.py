"""fastimae-eval semantics: the i-MAE paper's study over same-class ratios (table 1).

For each ratio r: pre-train an i-MAE with a share r of mixtures whose images share a class, then
probe it, fine-tune it and run mixtureprobe. Each of these is a separate run; its command is logged
before it starts. A run that is done is skipped, one that was stopped resumes, so the study's
command can be repeated until the table is full.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

from fastimae.arguments import parse_training
from fastimae.engine.checkpoint import LAST
from fastimae.engine.output_folders import claim_folders
from fastimae.evaluate.command import options_of, task_module
from fastimae.evaluate.options.mixtures import Probe, SemanticsOptions
from fastimae.evaluate.origin import check_result_is_of
from fastimae.evaluate.pages.runs import is_finished, read_log
from fastimae.evaluate.pages.tables import markdown
from fastimae.evaluate.result_files import RESULTS, read_results
from fastimae.evaluate.results import Results
from fastimae.evaluate.study_runs import StudyRun, run_once
from fastimae.flags import spelled
from fastimae.folders import write_text
from fastimae.log import log
from fastimae.pictures.plots import COLORS, plain_style, plt, save_figure
from fastimae.settings import ConfigError

PICTURE = "semantics.png"
NUMBER = {"linear": "acc1", "finetune": "acc1", "mixtureprobe": "mean_acc1"}
"""The number of each task's results.json that goes into the table."""


def run(options: SemanticsOptions) -> None:
    """Run what is missing; write results.json, semantics.md and semantics.png."""
    options.check()
    check_own_flags(options)
    check_commands(options)
    with claim_folders(options.output_dir):
        _run(options)


def _run(options: SemanticsOptions) -> None:
    for study_run in runs_of(options):
        if not run_once(study_run):
            log.warning("stopped in %s: the same command resumes from there", study_run.folder)
            break
    rows = table(options)
    text = markdown(rows)
    results = Results(options.output_dir, "semantics", options)
    draw(rows, options.tasks, results.picture(PICTURE))
    write_text(results.folder / "semantics.md", text + "\n")
    results.save({"table": rows})
    print(text)


def check_own_flags(options: SemanticsOptions) -> None:
    """Raise ConfigError for a study without images, and for flags that the study sets itself."""
    if (options.ffcv is None) == (options.data_path is None):
        raise ConfigError("give the images as --ffcv FILE.beton or as --data_path FOLDER")
    if options.train_flags and not options.train_flags[0].startswith("-"):
        first = options.train_flags[0]
        raise ConfigError(f"unexpected {first}: flags of fastimae-train come last, after --")
    no_flags = {f"{task}_flags": "" for task in get_args(Probe)}
    bare = dataclasses.replace(options, train_flags=(), num_workers=0, **no_flags)
    # --same_prob is another name of --same_class_ratio.
    of_study = _flags(train_command(bare, 0.0, Path())) | {"--same_prob"}
    _check_free(options.train_flags, of_study, "after --")
    for task in options.tasks:
        of_study = _flags(evaluate_command(bare, task, Path(), Path()))
        given = shlex.split(getattr(options, f"{task}_flags"))
        _check_free(given, of_study, f"in --{task}_flags")


def check_commands(options: SemanticsOptions) -> None:
    """Raise the errors that the flags or --val of any run would cause.

    Called before the first run, as the last one starts days later.
    """
    for name, checkpoint, ratio in models_of(options):
        folder = options.output_dir / name
        if ratio is not None and not is_finished(folder):
            parse_training("fastimae-train", train_command(options, ratio, folder)[1:])
        for task in options.tasks:
            results = folder / f"eval-{task}"
            if not (results / RESULTS).is_file():
                command = evaluate_command(options, task, checkpoint, results)
                task_module(task)  # a missing library shows before hours of training
                options_of(task, command[2:]).val_source()


def _check_free(given: Sequence[str], of_study: set[str], where: str) -> None:
    if taken := sorted(_flags(given) & of_study):
        raise ConfigError(f"{', '.join(taken)} {where}: the study sets that itself")


def _flags(words: Sequence[str]) -> set[str]:
    return {spelled(word) for word in words if word.startswith("--")}


def runs_of(options: SemanticsOptions) -> Iterator[StudyRun]:
    """Yield all runs of the study, in order.

    Raises CheckpointError where results are of other weights than their checkpoint holds now.
    """
    for name, checkpoint, ratio in models_of(options):
        folder = options.output_dir / name
        if ratio is not None:
            command = train_command(options, ratio, folder)
            yield StudyRun(f"pre-training, r = {ratio:g}", folder, command,
                           lambda folder=folder: is_finished(folder))  # fmt: skip
        for task in options.tasks:
            results = folder / f"eval-{task}"
            if (results / RESULTS).is_file():
                check_result_is_of(checkpoint, read_results(results), results)
            command = evaluate_command(options, task, checkpoint, results)
            yield StudyRun(f"{task}, {name}", results, command,
                           lambda results=results: (results / RESULTS).is_file())  # fmt: skip


def models_of(options: SemanticsOptions) -> Iterator[tuple[str, Path, float | None]]:
    """Yield (folder, checkpoint, same-class ratio) of each model, a row of the table."""
    if options.checkpoint:
        yield "baseline", options.checkpoint, None
    for ratio in options.ratios:
        yield f"r{ratio:g}", options.output_dir / f"r{ratio:g}" / LAST, ratio


def train_command(options: SemanticsOptions, ratio: float, folder: Path) -> list[str]:
    """Return the fastimae-train command for one ratio."""
    command = ["fastimae-train", *_data(options), *_common(options), *options.train_flags]
    command += ["--objective", "imae", "--same_class_ratio", f"{ratio:g}"]
    return [*command, "--output_dir", str(folder), "--resume", "auto"]


def evaluate_command(
    options: SemanticsOptions, task: str, checkpoint: Path, folder: Path
) -> list[str]:
    """Return the fastimae-eval command for one checkpoint."""
    command = ["fastimae-eval", task, "--checkpoint", str(checkpoint)]
    command += [*_data(options), *(["--val", str(options.val)] if options.val else [])]
    command += [*_common(options), "--output_dir", str(folder)]
    if task == "linear":
        command += ["--feature_dir", str(folder.parent / "eval-features")]
    if task in ("linear", "finetune"):
        command += ["--resume", "auto"]
    return command + shlex.split(getattr(options, f"{task}_flags"))


def table(options: SemanticsOptions) -> list[dict[str, Any]]:
    """Return a row for each model, with None for numbers that are still missing."""
    rows = []
    for name, _, ratio in models_of(options):
        folder = options.output_dir / name
        epochs = read_log(folder / "log.txt")
        realised = epochs[-1].get("same_class_ratio") if epochs else None
        row: dict[str, Any] = {"model": name, "same_class_ratio": ratio, "realised": realised}
        for task in options.tasks:
            results = folder / f"eval-{task}"
            done = (results / RESULTS).is_file()
            row[task] = read_results(results)["numbers"].get(NUMBER[task]) if done else None
        rows.append(row)
    return rows


def draw(rows: Sequence[dict[str, Any]], tasks: Sequence[str], path: Path) -> None:
    """Draw each task's number over the ratio; the model without mixing as a dashed line."""
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
    given = {flag: str(value) for flag, value in values.items() if value is not None}
    return [text for pair in given.items() for text in pair]
