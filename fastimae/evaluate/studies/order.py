"""Which runs of a study to do, and in which order: each after those that it needs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from fastimae.evaluate.studies.cells import Cell, fits
from fastimae.evaluate.studies.runs import StudyRun
from fastimae.settings import ConfigError
from fastimae.wording import did_you_mean


def in_order(runs: Iterable[StudyRun]) -> list[StudyRun]:
    """Return runs in their order, but each after those that it needs. Raises ConfigError if some
    need each other."""
    by_name = {run.name: run for run in runs}
    placed: dict[str, StudyRun] = {}

    def place(name: str, waiting: tuple[str, ...]) -> None:
        if name in waiting:
            circle = " needs ".join([*waiting[waiting.index(name) :], name])
            raise ConfigError(f"the models of the study need each other: {circle}")
        if name in placed or name not in by_name:  # a model that is there already
            return
        for need in by_name[name].needs:
            place(need, (*waiting, name))
        placed[name] = by_name[name]

    for name in by_name:
        place(name, ())
    return list(placed.values())


def chosen(
    runs: Sequence[StudyRun], cells: Sequence[Cell], patterns: Sequence[str]
) -> list[StudyRun]:
    """Return the runs that patterns of --only name, and those that they need; all without patterns.

    A pattern is of models, with all their runs, or of runs; without a seed it is of all seeds.
    Raises ConfigError for one that fits nothing.
    """
    by_name = {run.name: run for run in runs}
    row_of = {cell.name: cell.row for cell in cells}
    names: set[str] = set()
    for pattern in patterns:
        models = {cell.name for cell in cells if fits(cell, pattern)}
        fitting = set()
        for name in by_name:
            model, slash, evaluation = name.partition("/")
            of_row = f"{row_of[model]}{slash}{evaluation}"
            if model in models or any(fnmatchcase(each, pattern) for each in (name, of_row)):
                fitting.add(name)
        if not fitting:
            near = did_you_mean(pattern, by_name)
            raise ConfigError(f"--only {pattern}: there is no such model or run{near}")
        names |= fitting
    missing = list(names)
    while missing:
        needed = {need for need in by_name[missing.pop()].needs if need in by_name} - names
        names |= needed
        missing += needed
    return [run for run in runs if run.name in names or not patterns]
