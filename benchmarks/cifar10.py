"""Does it learn? MAE and i-MAE on CIFAR-10, then probes: `python -m benchmarks.cifar10 --help`.

Pre-trains a MAE, and i-MAEs with it as their teacher, and --also others; probes their features and
those of a model with fresh weights; computes the separability of the i-MAE paper, and with --cka
the similarity of masked and whole images, of the occlusion paper. Finished commands are not run
again, stopped ones resume. Writes a JSON file with the commands and loss curves, and prints tables.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.harness import BenchmarkReport, number, out_file, table
from fastimae.engine.launcher import without_ranks
from fastimae.flags import OnceParser
from fastimae.streams import closed_early_is_fine

PROG = "python -m benchmarks.cifar10"
_OF_SEPARABILITY = (
    *("model", "mix_ratio", "measured", "mse_before", "mse_after", "mse_after_trained"),
    *("before", "after_closed_form", "after_trained"),  # of earlier versions, another scale
)


class Command(NamedTuple):
    """A command, and the file that exists once it has succeeded."""

    name: str
    script: str
    """Console script, which runs a function of `fastimae.cli`."""
    arguments: list[str]
    result: Path


@closed_early_is_fine()
def main(argv: list[str] | None = None) -> int:
    """Run what is not finished yet. Raises CalledProcessError if a command fails."""
    options = parser().parse_args(argv)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    report = BenchmarkReport(device, PROG, argv, options.out)
    runs = [*trainings(options), *evaluations(options)]
    for run in runs:
        if not run.result.exists():
            print(f"{run.script} {shlex.join(run.arguments)}", file=sys.stderr, flush=True)
            function = {"fastimae-train": "train", "fastimae-eval": "evaluate"}[run.script]
            code = f"import sys; from fastimae.cli import {function}; sys.exit({function}())"
            subprocess.run(
                [sys.executable, "-c", code, *run.arguments],
                env=without_ranks(os.environ), check=True,
            )  # fmt: skip
    report |= {
        "commands": [f"{run.script} {shlex.join(run.arguments)}" for run in runs],
        "curves": {run.name: curve(run.result.parent) for run in trainings(options)},
        "results": probes(options),
        "separability": separability(options),
    }
    if options.cka:
        report["cka"] = results_of(options, "cka")["means"]
    report.finish()
    print(markdown(report))
    return 0


def parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    made = OnceParser(prog=PROG, description=__doc__)
    made.add_argument("--ffcv", type=Path, required=True, help="training images, .beton")
    made.add_argument("--val", type=Path, required=True, help="test images, .beton")
    made.add_argument("--runs", type=Path, required=True, help="folder of the runs")
    made.add_argument("--out", type=out_file, required=True, help="JSON file")
    made.add_argument("--epochs", type=int, default=200, help="epochs of each pre-training")
    made.add_argument("--ratios", type=float, nargs="*", default=[0.0, 0.5, 1.0], help="same-class")
    made.add_argument("--finetune", type=int, default=100, help="epochs of fine-tuning; 0: none")
    made.add_argument("--also", nargs="*", default=[], metavar="NAME=FLAGS", type=_named_flags,
                      help="more pre-trainings: \"rmae=--objective rmae\"")  # fmt: skip
    made.add_argument("--no_imae", action="store_true", help="no i-MAE, and no separability")
    made.add_argument("--cka", type=float, nargs="*", default=[], help="masking ratios of CKA")
    made.add_argument("--flags", default="", help="more flags for fastimae-train, in quotes")
    return made


def trainings(options: argparse.Namespace) -> Iterator[Command]:
    """Yield MAE; i-MAE without a teacher, with it, and for each same-class ratio; and --also.

    With --no_imae, only MAE and --also.
    """
    common = ["--recipe", "imae_cifar10", "--ffcv", str(options.ffcv)]
    common += ["--epochs", str(options.epochs), *shlex.split(options.flags)]
    if "--warmup_epochs" not in options.flags:  # the recipe's share of its epochs
        common += ["--warmup_epochs", f"{options.epochs / 10:g}"]
    teacher = ["--teacher", str(_last(options, "mae"))]
    kinds = {"mae": ["--objective", "mae"]}
    if not options.no_imae:
        kinds |= {"imae": [], "imae_distilled": teacher}
        kinds |= {f"imae_r{r:g}": [*teacher, "--same_class_ratio", str(r)] for r in options.ratios}
    for name, flags in (kinds | dict(options.also)).items():
        folder = options.runs / name
        arguments = [*common, *flags, "--output_dir", str(folder), "--resume", "auto"]
        yield Command(
            name, "fastimae-train", arguments, folder / f"checkpoint-{options.epochs - 1}.pth"
        )


def evaluations(options: argparse.Namespace) -> Iterator[Command]:
    """Yield probes of every model and of fresh weights, and the separability of three models."""
    data = ["--ffcv", str(options.ffcv), "--val", str(options.val)]
    tasks = {"linear": [], "knn": []}
    if options.finetune:
        recipe = ["--recipe", "imae_cifar10"]
        tasks["finetune"] = [*recipe, "--epochs", str(options.finetune), "--resume", "auto"]
    for name in (*[run.name for run in trainings(options)], "random"):
        model = "mae" if name == "random" else name
        fresh = ["--random_init"] if name == "random" else []
        for task, flags in tasks.items():
            folder = options.runs / name / f"eval-{task}"
            arguments = [task, "--checkpoint", str(_last(options, model)), *data, *flags, *fresh]
            if task in ("linear", "knn"):  # the same features
                arguments += ["--feature_dir", str(options.runs / name / "eval-features")]
            yield _evaluation(f"{name} {task}", arguments, folder)
    if not options.no_imae:
        others = [str(_last(options, name)) for name in ("imae", "mae")]
        arguments = ["separability", "--checkpoint", str(_last(options, "imae_distilled")), *data]
        arguments += ["--others", *others, "--teacher", str(_last(options, "mae"))]
        yield _evaluation("separability", arguments, options.runs / "eval-separability")
    if options.cka:
        imae = () if options.no_imae else ("imae",)
        last = [str(_last(options, name)) for name in ("mae", *imae, *dict(options.also))]
        arguments = ["cka", "--checkpoint", last[0], "--others", *last[1:], *data]
        arguments += ["--mask_ratios", *map(str, options.cka), "--random_baseline"]
        yield _evaluation("cka", arguments, options.runs / "eval-cka")


def curve(folder: Path) -> list[dict[str, float]]:
    """Read the losses of a run, epoch by epoch."""
    lines = [json.loads(line) for line in (folder / "log.txt").read_text().splitlines()]
    return [
        {k: round(v, 5) for k, v in line.items() if k.startswith("train_") or k == "epoch"}
        for line in lines
    ]


def probes(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Collect the top-1 accuracy of each model by each probe, in percent."""
    rows: dict[str, dict[str, Any]] = {}
    for run in evaluations(options):
        name, _, task = run.name.partition(" ")
        if task:
            numbers = json.loads(run.result.read_text())["numbers"]
            rows.setdefault(name, {"model": name})[task] = numbers["acc1"]
    return list(rows.values())


def separability(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Read M_ls by model and mixing ratio; nothing with --no_imae."""
    if options.no_imae:
        return []
    rows = results_of(options, "separability")["table"]
    return [{key: row[key] for key in _OF_SEPARABILITY if key in row} for row in rows]


def results_of(options: argparse.Namespace, task: str) -> dict[str, Any]:
    """Read the numbers of a task that compares models."""
    return json.loads((options.runs / f"eval-{task}" / "results.json").read_text())["numbers"]


def markdown(report: Mapping[str, Any]) -> str:
    """Make tables of accuracy, of M_ls before -> after the regression by mixing ratio, of CKA."""
    rows: dict[str, dict[str, Any]] = {}
    for one in report["separability"]:
        if "mse_before" in one:
            title, both = "M_ls, MSE", (one["mse_before"], one["mse_after"])
        else:  # a report of an earlier version
            title, both = "M_ls, sum over the width", (one["before"], one["after_closed_form"])
        row = rows.setdefault(one["model"], {title: one["model"]})
        row[f"{one['mix_ratio']:g}"] = " → ".join(number(each) for each in both)
    tables = [table(report["results"]), *([table(list(rows.values()))] if rows else [])]
    return "\n".join([*tables, *([cka_table(report["cka"])] if "cka" in report else [])])


def cka_table(means: list[Mapping[str, Any]]) -> str:
    """Make a row for each model: the mean of CKA over the layers, by masking ratio."""
    rows: dict[str, dict[str, Any]] = {}
    for one in means:
        row = rows.setdefault(one["model"], {"CKA, mean of layers": one["model"]})
        row[f"{one['mask_ratio']:g}"] = f"{one['cka']:.3f}"
    return table(list(rows.values()))


def all_tables(report: Mapping[str, Any]) -> str:
    """Make all tables: probes, separability, losses; and list the commands."""
    commands = "\n".join(report["commands"])
    losses = [
        {"run": name, "epochs": len(lines)}
        | {
            f"{when} loss": number(lines[i]["train_loss"])
            for when, i in (("first", 0), ("last", -1))
        }
        for name, lines in report["curves"].items()
    ]
    return f"{markdown(report)}\n{table(losses)}\n```\n{commands}\n```\n"


def _named_flags(text: str) -> tuple[str, list[str]]:
    """Parse NAME=FLAGS. Raises ArgumentTypeError."""
    name, equals, flags = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text} is not NAME=FLAGS")
    return name, shlex.split(flags)


def _evaluation(name: str, arguments: list[str], folder: Path) -> Command:
    return Command(
        name, "fastimae-eval", [*arguments, "--output_dir", str(folder)], folder / "results.json"
    )


def _last(options: argparse.Namespace, name: str) -> Path:
    return options.runs / name / "checkpoint-last.pth"


if __name__ == "__main__":
    sys.exit(main())
