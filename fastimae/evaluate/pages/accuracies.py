"""The accuracies of several runs, with the best of those that were measured alike marked."""

from __future__ import annotations

import dataclasses
import importlib
import os
import pkgutil
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fastimae.evaluate import options
from fastimae.evaluate.pages.evaluations import Evaluation
from fastimae.evaluate.pages.runs import RunRecord
from fastimae.evaluate.pages.tables import Cell, format_value
from fastimae.evaluate.pages.titles import in_order, scores_in
from fastimae.interop.options import ModelOptions
from fastimae.settings import free_settings

for _module in pkgutil.iter_modules(options.__path__, f"{options.__name__}."):
    importlib.import_module(_module.name)  # so that `free_settings` knows the settings in them
_MODEL = {"checkpoint", "others", "classifier"} | {
    field.name for field in dataclasses.fields(ModelOptions)
}
_PATHS = ("ffcv", "data_path", "val")
_SIZES = ("classes", "train_images", "val_images")
"""Numbers of an evaluation that are no results, but depend on its images."""

Conditions = Mapping[str, Any]
"""What an accuracy depends on besides the model: settings, by name, and sizes of data sets."""


class Score(NamedTuple):
    """An accuracy of a run."""

    title: str
    value: float
    item: Evaluation


class Verdict(NamedTuple):
    """How a score compares with the others of its column."""

    best: bool = False
    notes: Sequence[str] = ()
    """Why it may not be compared, and what else a reader must know."""


@dataclasses.dataclass(frozen=True)
class Accuracies:
    """A table with a row for each run and a column for each kind of accuracy."""

    rows: list[dict[str, Any]]
    """The run's name under "run"; a `Cell`, or None, for each column."""
    notes: list[str]
    """Footnotes, numbered from 1."""


def accuracies(records: Sequence[RunRecord]) -> Accuracies:
    """Collect the accuracies of all runs. There are no rows if no run has any."""
    columns = columns_of(records)
    rows: list[dict[str, Any]] = [{"run": record.name} for record in records] if columns else []
    notes: list[str] = []
    for title, scores in columns.items():
        for row, score, (best, why) in zip(rows, scores, verdicts(scores), strict=True):
            notes += [text for text in why if text not in notes]
            numbers = tuple(notes.index(text) + 1 for text in why)
            row[title] = Cell(f"{score.value:.2f}", best, numbers) if score else None
    return Accuracies(rows, notes)


def columns_of(records: Sequence[RunRecord]) -> dict[str, list[Score | None]]:
    """Return a column for each kind of accuracy, with a score for each run that has one."""
    found = [{score.title: score for score in scores_of(record)} for record in records]
    items = in_order(score.item for scores in found for score in scores.values())
    titles = dict.fromkeys(title for item in items for title in scores_in(item).values())
    columns = {title: [scores.get(title) for scores in found] for title in titles}
    return {title: scores for title, scores in columns.items() if any(scores)}


def scores_of(record: RunRecord) -> list[Score]:
    """Return the accuracies of a run: those of each evaluation that has any."""
    return [
        Score(title, float(item.numbers[name]), item)
        for item in record.evaluations
        for name, title in scores_in(item).items()
        if isinstance(item.numbers.get(name), int | float)
    ]


def verdicts(scores: Sequence[Score | None]) -> list[Verdict]:
    """Compare the scores of a column that were measured as most of them were.

    The best of two or more is marked, with all that round to the same two digits.
    """
    known = {number: score for number, score in enumerate(scores) if score}
    conditions = {number: conditions_of(score.item) for number, score in known.items()}
    alike = {
        one: [other for other in known if not differences(conditions[other], conditions[one])]
        for one in known
    }
    usual = max(known, key=lambda number: len(alike[number]))
    compared = alike[usual]
    best = max((round(known[number].value, 2) for number in compared), default=None)
    found = [Verdict()] * len(scores)
    for number, score in known.items():
        different = differences(conditions[number], conditions[usual]) if len(known) > 1 else []
        is_best = number in compared and len(compared) > 1 and round(score.value, 2) == best
        about_weights = [score.item.match.note] if score.item.match.note else []
        found[number] = Verdict(is_best, [*different, *about_weights])
    return found


def conditions_of(item: Evaluation) -> Conditions:
    """Return what an evaluation's numbers depend on besides the model; {} if it is not recorded."""
    settings = item.content.get("settings")
    if not isinstance(settings, dict) or not settings:
        return {}
    ignored = _MODEL | free_settings()
    chosen = {name: value for name, value in settings.items() if name not in ignored}
    if "kind" in item.content:  # of a classifier: see `by_classifier`
        chosen["classifier"] = item.content["kind"]
    return chosen | {name: item.numbers[name] for name in _SIZES if name in item.numbers}


def differences(these: Conditions, usual: Conditions) -> list[str]:
    """Return how these conditions differ from the usual ones, in words; [] if they are the same.

    Settings that only one of them has were added by a later version: they are not compared.
    """
    if not these or not usual:
        return ["not compared: its settings, or those of the others, are not recorded"]
    names = [name for name in these if name in usual and _differ(name, these[name], usual[name])]
    changes = [f"{name} {_value(these[name])}, not {_value(usual[name])}" for name in names]
    return [f"not compared: {'; '.join(changes)}"] if changes else []


def _differ(name: str, one: Any, other: Any) -> bool:
    """Return whether two values differ; those of a path do if they name different places."""
    if name in _PATHS and one and other:
        return os.path.realpath(one) != os.path.realpath(other)
    return one != other


def _value(value: Any) -> str:
    return "None" if value is None else format_value(value)
