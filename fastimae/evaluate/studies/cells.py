"""The cells of a study: one model each, with its flags and its place in the grid."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from fastimae.evaluate.studies.file import Model, Study
from fastimae.evaluate.studies.flag_words import Flag, Flags, listed
from fastimae.settings import ConfigError


class Cell(NamedTuple):
    """A model that is pre-trained, or is there already: a row of the table, with one seed."""

    name: str
    """The name of its folder: the row's, with the seed unless that is the first."""
    row: str
    model: str
    """The name of the row's entry in the file."""
    point: Mapping[str, Any]
    """Its place in the grid: values of flags."""
    flags: Flags
    """All flags of its pre-training that the study does not set itself."""
    checkpoint: Path | None
    """The file, of a model that is there already."""
    seed: int


def cells_of(study: Study, seeds: Sequence[int], typed: Flags) -> list[Cell]:
    """Return all cells in the order of the file.

    typed: the flags of the command line for every pre-training, which override the file's `train`.
    Raises ConfigError if a model has one of them itself, and for cells of one name.
    """
    cells = [
        Cell(
            name=row if seed == seeds[0] else f"{row}-seed{seed}",
            row=row,
            model=model.name,
            point={name: flag.value for name, flag in point.items()},
            flags={} if model.checkpoint else {**study.train, **typed, **model.flags, **point},
            checkpoint=model.checkpoint,
            seed=seed,
        )
        for model in study.models.values()
        for point, row in _rows(study, model, typed)
        for seed in seeds
    ]
    names = [cell.name for cell in cells]
    for cell in cells:
        if names.count(cell.name) > 1:
            raise study.content.error(f"two models are called {cell.name}", "models", cell.model)
    return cells


def rows_of(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Return the cells of each row, which differ in their seeds."""
    rows: dict[str, list[Cell]] = {}
    for cell in cells:
        rows.setdefault(cell.row, []).append(cell)
    return list(rows.values())


def fits(cell: Cell, pattern: str) -> bool:
    """Return whether a pattern is of a cell: of its name, its row's, or its entry's in the file."""
    return any(fnmatchcase(name, pattern) for name in (cell.name, cell.row, cell.model))


def _rows(study: Study, model: Model, typed: Flags) -> Iterator[tuple[dict[str, Flag], str]]:
    """Yield the points of a model's grid, and the name of each."""
    if taken := sorted(typed.keys() & (model.flags.keys() | model.grid.keys())):
        flags = ", ".join(f"--{name}" for name in taken)
        raise ConfigError(
            f"{flags} {typed[taken[0]].place}: the study sets that itself (models.{model.name}); "
            "--set changes it"
        )
    for values in itertools.product(*model.grid.values()):
        point = dict(zip(model.grid, values, strict=True))
        texts = (_in_name(flag.value) for flag in values)
        name = "-".join([model.name, *texts])
        yield point, name


def _in_name(value: Any) -> str:
    """Return a value as part of a folder's name: 0.5, 64x32, runs_mae.pth."""
    if isinstance(value, float):
        return f"{value:g}"
    return re.sub(r"[^\w.+-]+", "_", "x".join(map(str, listed(value))))
