"""Paths as users write them: `~`, `~user`, `$VAR` and `${VAR}` are expanded, in flags and in YAML.

Which settings are paths follows from their types: `Path`, or `FileNames` for text that names files.
Paths stay relative to the working directory, wherever they are written.
"""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path
from typing import Any, TypeVar, get_args

from fastimae.settings import ConfigError, FileNames, hints_of

Options = TypeVar("Options")
_VARIABLE = re.compile(r"\$(?:\{([A-Za-z_]\w*)\}|([A-Za-z_]\w*))")
_MARKED = FileNames.__metadata__[0]


def expand_paths(options: Options) -> Options:
    """Return a copy of options with all their paths expanded. Raises ConfigError, with the flag."""
    hints = hints_of(type(options))
    changed = {}
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if dataclasses.is_dataclass(value):
            changed[field.name] = expand_paths(value)
        elif names_files(hints[field.name]):
            changed[field.name] = _expanded_value(value, _typed(field.name, hints[field.name]))
    return dataclasses.replace(options, **changed)


def names_files(hint: Any) -> bool:
    """Return whether values of this type are paths, or contain some: `tuple[Path, ...]`."""
    return hint is Path or _MARKED in _notes(hint) or any(map(names_files, get_args(hint)))


def expanded(text: str) -> str:
    """Return a path with variables and a leading `~` or `~user` expanded.

    Names that exist as they are written stay, such as a folder called `cost$per$image`. Raises
    ValueError for a variable that is not set, and for an unknown user.
    """
    if _exists_as_written(text):
        return text
    text = _VARIABLE.sub(_value_of, text)
    found = os.path.expanduser(text)  # noqa: PTH111 (pathlib would drop a trailing slash)
    if found.startswith("~") and not _exists_as_written(found):
        raise ValueError(f"{text}: there is no home folder of {found.partition('/')[0]}")
    return found


def _exists_as_written(text: str) -> bool:
    """Return whether the last part of a path that could be expanded exists under that name."""
    path = Path(text)
    parts = (
        part for part in (path, *path.parents) if part.name.startswith("~") or "$" in part.name
    )
    last = next(parts, None)
    return last is not None and os.path.lexists(last)


def _value_of(variable: re.Match) -> str:
    name = variable[1] or variable[2]
    if not (value := os.environ.get(name)):
        raise ValueError(f"{variable.string}: the variable {name} is not set")
    return value


def _expanded_value(value: Any, name: str) -> Any:
    if isinstance(value, tuple):
        return tuple(_expanded_value(each, name) for each in value)
    if not isinstance(value, str | Path):
        return value
    try:
        return type(value)(expanded(str(value)))
    except ValueError as error:
        raise ConfigError(f"{name} {error}") from None


def _typed(name: str, hint: Any) -> str:
    """Return the flag of a setting, or the placeholder of a positional argument: SRC."""
    placeholders = (getattr(note, "metavar", None) for note in _notes(hint))
    return next(filter(None, placeholders), f"--{name}")


def _notes(hint: Any) -> list[Any]:
    """Return the annotations of a type and of its parts."""
    own = getattr(hint, "__metadata__", ())
    return [*own, *(note for part in get_args(hint) for note in _notes(part))]
