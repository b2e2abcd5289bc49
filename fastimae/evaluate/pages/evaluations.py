"""The evaluations in a run's folder: numbers, pictures, log, and which weights they are of."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

from fastimae.engine.previous_runs import is_previous_run
from fastimae.evaluate.pages.checkpoint_match import (
    CheckpointMatch,
    Checkpoints,
    match_beside,
    match_checkpoint,
)
from fastimae.evaluate.pages.tables import is_number
from fastimae.evaluate.result_files import FORMERLY, RESULTS, read_results

LOG = "log.txt"
_OLD_COLUMNS = {
    "separability": {
        key: f"{key}, summed over the width"
        for key in ("before", "after_closed_form", "after_trained")
    }
}
"""Columns that results of earlier versions have on another scale, by task; and their titles."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A results.json and the files beside it."""

    name: str
    """The task, followed by the folder unless it is the task's default."""
    folder: Path
    content: dict[str, Any]
    """All of results.json."""
    pictures: tuple[Path, ...]
    log: tuple[dict[str, Any], ...]
    """Lines of log.txt, for tasks that train."""
    match: CheckpointMatch

    @property
    def task(self) -> str:
        """The task's name."""
        return str(self.content.get("task", self.folder.name.removeprefix("eval-")))

    @property
    def numbers(self) -> dict[str, Any]:
        """The results, without the settings."""
        numbers = self.content.get("numbers")
        return numbers if isinstance(numbers, dict) else {}

    @property
    def scalars(self) -> dict[str, Any]:
        """The results that are single values."""
        return {k: v for k, v in self.numbers.items() if isinstance(v, int | float | str)}

    @property
    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """The results that are lists of rows, with the columns of earlier versions told apart.

        And those that are a number for each class, as the IoU.
        """
        old = _OLD_COLUMNS.get(self.task, {})
        listed = {name: _rows(name, value) for name, value in self.numbers.items()}
        return {
            name: [{old.get(key, key): value for key, value in row.items()} for row in rows]
            for name, rows in listed.items()
            if rows and all(isinstance(row, dict) for row in rows)
        }


def _rows(name: str, value: Any) -> list[Any]:
    """Return the rows of a table; [] of anything else. name: of the column, of a dict by class."""
    if isinstance(value, dict) and all(
        number is None or is_number(number) for number in value.values()
    ):
        return [{"class": str(key), name: number} for key, number in value.items()]
    return value if isinstance(value, list) else []


def read_evaluations(run: Path) -> list[Evaluation]:
    """Read all evaluations below a folder, except in archived runs.

    One whose results.json cannot be read does not belong to the run; its note is the reason.
    """
    evaluations: dict[Path, Evaluation] = {}
    checkpoints = functools.cache(Checkpoints)
    for path in sorted(run.rglob(RESULTS), key=lambda path: len(path.parts)):  # parents first
        content, folder = _content(path), path.parent
        parents = [parent for parent in folder.parents if parent.is_relative_to(run)]  # inner first
        if any(map(is_previous_run, [folder, *parents[:-1]])):
            continue
        outer = [evaluations[parent].match for parent in parents if parent in evaluations]
        if not content:
            match = CheckpointMatch(belongs=False, note=f"its {RESULTS} cannot be read")
        elif refused := [match for match in outer if not match.belongs]:
            match = refused[0]
        elif parents:
            owners = (parent for parent in parents if checkpoints(parent).newest)
            match = match_checkpoint(content, checkpoints(next(owners, run)))
        else:
            match = match_beside(content, checkpoints(run))
        evaluations[folder] = _evaluation(content, folder, run, match)
    return [evaluations[folder] for folder in sorted(evaluations)]


def read_log(path: Path) -> tuple[dict[str, Any], ...]:
    """Read a log.txt, without a line that a crash cut short. Empty if there is no file."""
    entries = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict):
            entries.append(entry)
    return tuple(entries)


def _evaluation(
    content: dict[str, Any], folder: Path, run: Path, match: CheckpointMatch
) -> Evaluation:
    task = str(content.get("task", folder.name))
    names = (task, content.get(FORMERLY, task))
    default = folder.name in (*names, *(f"eval-{name}" for name in names))
    where = folder.parent if default and folder != run else folder
    return Evaluation(
        name=task if where == run else f"{task} ({where.relative_to(run).as_posix()})",
        folder=folder,
        content=content,
        pictures=_pictures(folder, content.get("pictures")),
        log=read_log(folder / LOG),
        match=match,
    )


def _pictures(folder: Path, names: Any) -> tuple[Path, ...]:
    """Return the pictures that the results name; earlier versions named none: all PNG files."""
    if not isinstance(names, list):
        return tuple(sorted(folder.glob("*.png")))
    files = (folder / Path(str(name)).name for name in names)
    return tuple(file for file in files if file.is_file())


def _content(path: Path) -> dict[str, Any]:
    """Return what a results.json holds; {} if it cannot be read."""
    try:
        content = read_results(path)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {"numbers": content}
