"""A study: its models and evaluations, the columns of its table, its plot, and a paper's numbers.

The docstring of `StudyOptions` shows the form of the file.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastimae.config import parsed_settings
from fastimae.evaluate.command import TASKS
from fastimae.evaluate.options.base import TaskOptions
from fastimae.evaluate.pages.tables import is_number
from fastimae.evaluate.studies.content import Content
from fastimae.evaluate.studies.flag_words import Flag
from fastimae.paths import expanded
from fastimae.settings import Settings
from fastimae.wording import did_you_mean

OF_STUDY = ("output_dir", "log_dir", "resume", "device", "num_workers", "seed", "print_config")
"""Flags of all commands that the study sets itself."""
OF_EVALUATION = (*OF_STUDY, "checkpoint", "feature_dir", "output")
"""A file of --output would be that of every model."""
_PARTS = ("about", "train", "models", "evaluations", "columns", "plot", "paper")
_FEATURES = "features"
"""No name of an evaluation: its folder has the features that evaluations share."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """Models to pre-train, one for each point of a grid; or one that is there already."""

    name: str
    flags: Mapping[str, Flag]
    grid: Mapping[str, Sequence[Flag]]
    """The values that a flag takes, by its name; {} for a single model."""
    checkpoint: Path | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A task of fastimae-eval with its flags."""

    name: str
    task: str
    flags: Mapping[str, Flag]
    models: tuple[str, ...]
    """Patterns of the models that it is for; () for all."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Column:
    """A column of the table: a number in the results of an evaluation."""

    name: str
    evaluation: str
    keys: tuple[str, ...]
    """Where it is below "numbers" in results.json; a list of rows needs a single one to fit."""
    where: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Values of that row, by key."""


@dataclasses.dataclass(kw_only=True)
class PlotSettings(Settings):
    """The plot: a panel for each column."""

    x: str | None = None
    """A flag of a grid; each combination of the others is a line. None: bars."""
    log: bool = False
    """A logarithmic x axis."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """What a file says."""

    about: str
    train: Mapping[str, Flag]
    """Flags of every pre-training; those of a model override them."""
    models: Mapping[str, Model]
    evaluations: Mapping[str, Evaluation]
    columns: Sequence[Column]
    plot: PlotSettings
    conditions: str
    """Where the paper's numbers are from, and how they were measured."""
    paper: Mapping[str, Mapping[str, float]]
    """The paper's numbers by row and column of the table."""
    content: Content

    @property
    def grid(self) -> list[str]:
        """The flags of all grids."""
        return list(dict.fromkeys(key for model in self.models.values() for key in model.grid))


def read_study(path: Path, changes: Sequence[str] = ()) -> Study:
    """Read a study's file, and make the changes of --set. Raises ConfigError."""
    content = Content(path, changes)
    content.check_keys(_PARTS)
    names = content.names("evaluations")
    study = Study(
        about=content.text("about"),
        train=_free(content, content.flags("train"), OF_STUDY, "train"),
        models={name: _model(content, name) for name in content.names("models")},
        evaluations={name: _evaluation(content, name) for name in names},
        columns=_columns(content, names),
        plot=PlotSettings(**parsed_settings(
            [PlotSettings], content.mapping("plot"), lambda key: content.place("plot", key)
        )),
        conditions=content.text("paper", "conditions"),
        paper=_paper(content),
        content=content,
    )  # fmt: skip
    _check(study)
    return study


def _model(content: Content, name: str) -> Model:
    keys = ("models", name)
    flags = content.flags(*keys, but=("grid", "checkpoint"))
    grid = {
        key: _values(content, flag, *keys, "grid", key)
        for key, flag in content.flags(*keys, "grid").items()
    }
    if content.get(*keys, "grid") is not None and not grid:
        raise content.error("a grid needs a flag with a list of values", *keys, "grid")
    checkpoint = content.text(*keys, "checkpoint")
    if checkpoint and (flags or grid):
        raise content.error("its flags have no effect with a checkpoint: drop them", *keys)
    if both := flags.keys() & grid.keys():
        raise content.error("the grid has it, too", *keys, min(both))
    return Model(
        name=name,
        flags=_free(content, flags, OF_STUDY, *keys),
        grid=_free(content, grid, OF_STUDY, *keys, "grid"),
        checkpoint=Path(expanded(checkpoint)) if checkpoint else None,
    )


def _values(content: Content, flag: Flag, *keys: str) -> list[Flag]:
    if not isinstance(flag.value, list) or not flag.value:
        raise content.error("a grid takes lists of values, as [0, 0.5, 1]", *keys)
    return [Flag(value, flag.place) for value in flag.value]


def _evaluation(content: Content, name: str) -> Evaluation:
    keys = ("evaluations", name)
    task = content.text(*keys, "task") or name
    tasks = [each for each, its in TASKS.items() if issubclass(its.options, TaskOptions)]
    if task not in tasks:
        near = did_you_mean(task, tasks) or f": its task is one of {', '.join(tasks)}"
        raise content.error(f"there is no task {task}{near}", *keys)
    if name == _FEATURES:
        raise content.error("choose another name", *keys)
    flags = content.flags(*keys, but=("task", "models"))
    return Evaluation(
        name=name,
        task=task,
        flags=_free(content, flags, OF_EVALUATION, *keys),
        models=content.texts(*keys, "models"),
    )


def _free(content: Content, flags: Any, of_study: Sequence[str], *keys: str) -> Any:
    """Return the flags. Raises ConfigError if the study sets one of them itself."""
    for name in flags:
        if name in of_study:
            raise content.error("the study sets that itself", *keys, name)
    return flags


def _columns(content: Content, evaluations: Sequence[str]) -> list[Column]:
    given = content.mapping("columns") or {name: f"{name}.acc1" for name in evaluations}
    columns = []
    for name, form in given.items():
        where = {}
        if isinstance(form, dict):
            content.check_keys(("number", "where"), "columns", name)
            form, where = form.get("number"), content.mapping("columns", name, "where")
        if not isinstance(form, str) or not re.fullmatch(r"[^.]+(\.[^.]+)+", form):
            raise content.error("this must be EVALUATION.NUMBER, as linear.acc1", "columns", name)
        fitting = [each for each in evaluations if form.startswith(f"{each}.")]
        evaluation = max(fitting, key=len, default=form.split(".")[0])  # finetune-0.1.acc1
        keys = form.removeprefix(f"{evaluation}.").split(".")
        if not fitting:
            near = did_you_mean(evaluation, evaluations)
            raise content.error(f"there is no evaluation {evaluation}{near}", "columns", name)
        columns.append(Column(name=name, evaluation=evaluation, keys=tuple(keys), where=where))
    return columns


def _paper(content: Content) -> dict[str, dict[str, float]]:
    content.check_keys(("conditions", "numbers"), "paper")
    found = {
        row: content.mapping("paper", "numbers", row) for row in content.mapping("paper", "numbers")
    }
    for row, numbers in found.items():
        for column, number in numbers.items():
            if not is_number(number):
                raise content.error("this must be a number", "paper", "numbers", row, column)
    if found and not content.text("paper", "conditions"):
        raise content.error("say in conditions where the numbers are from", "paper")
    return found


def _check(study: Study) -> None:
    """Raise ConfigError for a study without models or evaluations, and for what does not fit."""
    content = study.content
    for part in ("models", "evaluations"):
        if not content.mapping(part):
            raise content.error(f"a study needs {part}")
    x = study.plot.x
    if x is not None and x not in study.grid:
        raise content.error(f"no grid has {x}{did_you_mean(x, study.grid)}", "plot", "x")
    if x is None and study.plot.log:
        raise content.error("it has no effect without x", "plot", "log")
    if both := study.models.keys() & study.evaluations.keys():
        raise content.error("a model has this name, too", "evaluations", min(both))
    for column in study.columns:
        if column.name in ("model", "seeds", *study.grid):
            raise content.error("another column has this name", "columns", column.name)


def unknown_names(study: Study, rows: Sequence[str]) -> list[str]:
    """Return what the paper has numbers of but the study has not: rows, and columns of rows."""
    columns = {column.name for column in study.columns}
    return [row for row in study.paper if row not in rows] + [
        f"{row}.{name}" for row, numbers in study.paper.items() if row in rows
        for name in numbers if name not in columns
    ]  # fmt: skip
