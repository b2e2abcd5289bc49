"""References in a study's flags: the name of a model stands for its checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastimae.evaluate.studies.cells import Cell
from fastimae.evaluate.studies.flag_words import Flags, flags_of_paths, listed
from fastimae.paths import expanded
from fastimae.settings import ConfigError
from fastimae.wording import did_you_mean

Known = dict[str, tuple[str, Path]]
"""What a name stands for: the run that makes it, and its file."""


def resolved(flags: Flags, options: type, known: Known) -> tuple[dict[str, Any], list[str]]:
    """Return flags as values, with files instead of names; and the runs that make these files.

    options: the class of the command's options: which flags are paths follows from it. Raises
    ConfigError for a path that is neither a name nor there.
    """
    needs: list[str] = []
    paths = flags_of_paths(options)

    def file(value: Any, name: str) -> Any:
        if value is None or value == "None":
            return value
        if value in known:
            run, path = known[value]
            needs.append(run)
            return str(path)
        if not Path(expanded(str(value))).exists():
            near = did_you_mean(str(value), known)
            raise ConfigError(
                f"{flags[name].place}: {name}: there is neither a model nor a file called "
                f"{value}{near}"
            )
        return value

    values: dict[str, Any] = {}
    for name, flag in flags.items():
        given = flag.value
        if name in paths:
            many = [file(value, name) for value in listed(given)]
            given = many if isinstance(given, list) else many[0]
        values[name] = given
    return values, needs


def known_models(cell: Cell, cells: Sequence[Cell]) -> dict[str, Cell]:
    """Return the models that the flags of a cell may name, by row and by entry of the file.

    A model with a grid is the one at the cell's own place in it, if that is one only. The seed is
    the cell's.
    """
    found: dict[str, list[Cell]] = {}
    for other in cells:
        if other.seed != cell.seed:
            continue
        found.setdefault(other.row, []).append(other)
        alike = all(cell.point.get(key) == value for key, value in other.point.items())
        if other.model != other.row and alike:
            found.setdefault(other.model, []).append(other)
    return {name: others[0] for name, others in found.items() if len(others) == 1}
