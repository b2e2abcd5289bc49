"""The runs of the tables: those of the shipped studies, which share models, in one folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.cifar10.pace import FULL, RECIPE, scaled
from fastimae.arguments import peek
from fastimae.evaluate.command import TASKS, options_of
from fastimae.evaluate.options.study import StudyOptions
from fastimae.evaluate.studies.commands import Commands
from fastimae.evaluate.studies.file import Study, read_study
from fastimae.evaluate.studies.flag_words import words_of
from fastimae.evaluate.studies.runs import StudyRun
from fastimae.evaluate.studies.shipped import find_study
from fastimae.recipes import RECIPES
from fastimae.settings import ConfigError

STUDIES = {
    1: "imae_table1_cifar10",
    2: "imae_table2_cifar10",
    3: "imae_tables3_4_cifar10",
    4: "imae_tables3_4_cifar10",
}
"""The study of each table."""


class Asked(NamedTuple):
    """What of the tables to make, on which images, and how it differs from the paper."""

    ffcv: Path
    val: Path
    runs: Path
    """Folder of all runs."""
    tables: Sequence[int] = tuple(STUDIES)
    flags: Sequence[str] = ()
    """Words for fastimae-train."""
    set: Sequence[str] = ()
    """Changes of the studies, as for fastimae-eval study."""


class Job(NamedTuple):
    """A run of a study, and how long it is."""

    run: StudyRun
    kind: str
    """Runs of a kind take as long per epoch: mae, imae, imae with a teacher; an evaluation's task.
    """
    epochs: int
    """0 for a task that has none."""

    @property
    def trains(self) -> bool:
        """Whether it is a pre-training."""
        return self.run.checkpoint is None


def commands_of(asked: Asked, epochs: int, train: Mapping[str, Any]) -> dict[str, Commands]:
    """Return the commands of each study, with `epochs` of pre-training and shorter evaluations.

    train: more settings of pre-training, unless the flags have them. Raises ConfigError.
    """
    if epochs != FULL:
        warm_up = RECIPES[RECIPE]()["warmup_epochs"] * epochs / FULL
        train = {"epochs": epochs, "warmup_epochs": warm_up, **train}
    more = {name: value for name, value in train.items() if f"--{name}" not in asked.flags}
    flags = (*words_of(more), *asked.flags)
    names = dict.fromkeys(STUDIES[table] for table in asked.tables)
    full = {name: _commands(asked, name, flags, ()) for name in names}
    for change in asked.set:
        if not any(_is_of(commands.study, change) for commands in full.values()):
            raise ConfigError(f"--set {change}: none of the tables has that part")
    return {
        name: _commands(asked, name, flags, [
            *_shorter(commands, epochs),
            *[change for change in asked.set if _is_of(commands.study, change)],
        ])
        for name, commands in full.items()
    }  # fmt: skip


def jobs_of(studies: Mapping[str, Commands]) -> list[Job]:
    """Return the runs of all studies, each once, and after those that it needs."""
    runs = {run.name: run for commands in studies.values() for run in commands.runs()}
    return [Job(run, _kind(run), _epochs(run)) for run in runs.values()]


def _commands(asked: Asked, name: str, flags: Sequence[str], changes: Sequence[str]) -> Commands:
    options = StudyOptions(
        study=name, train_flags=tuple(flags), ffcv=asked.ffcv, val=asked.val, set=tuple(changes),
        output_dir=asked.runs,
    )  # fmt: skip
    return Commands(read_study(find_study(name), options.set), options)


def _is_of(study: Study, change: str) -> bool:
    """Return whether a study has the model or the evaluation that a change is of."""
    part, name, *_ = [*change.partition("=")[0].split("."), ""]
    return part not in ("models", "evaluations") or name in getattr(study, part)


def _shorter(commands: Commands, epochs: int) -> Iterator[str]:
    """Yield the changes of the study that shorten its evaluations as the pre-training is."""
    firsts = {run.name.partition("/")[2]: run for run in reversed(commands.runs())}
    for name, run in firsts.items():
        if epochs != FULL and name and _has_epochs(run):
            full = options_of(run.command[1], run.command[2:])
            yield f"evaluations.{name}.epochs={scaled(full.epochs, epochs)}"
            yield f"evaluations.{name}.warmup_epochs={full.warmup_epochs * epochs / FULL:g}"


def _epochs(run: StudyRun) -> int:
    if given := peek(run.command, "epochs").get("epochs"):
        return int(given)
    if run.checkpoint is None:
        return FULL
    return options_of(run.command[1], run.command[2:]).epochs if _has_epochs(run) else 0


def _has_epochs(run: StudyRun) -> bool:
    return hasattr(TASKS[run.command[1]].options, "epochs")


def _kind(run: StudyRun) -> str:
    if run.checkpoint:
        return run.command[1]
    objective = peek(run.command, "objective").get("objective", RECIPES[RECIPE]()["objective"])
    return f"{objective} with a teacher" if "--teacher" in run.command else objective
