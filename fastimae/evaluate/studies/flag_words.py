"""Flags of a study's commands: where each stands, as words of a command line, and its errors."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from fastimae.arguments import UsageError
from fastimae.declarations import declared
from fastimae.flags import repeated, spelled
from fastimae.settings import ConfigError
from fastimae.values import takes_paths

MADE_FOLDERS = {"output_dir", "log_dir", "feature_dir"}
"""Paths that a command makes; all others are read."""
_NAMED = re.compile(r"--(\w+)")


class Flag(NamedTuple):
    """The value of a flag, and where it stands."""

    value: Any
    """A value or a list of values, as YAML has it."""
    place: str
    """For errors: "few.yaml, line 7"."""


Flags = Mapping[str, Flag]
"""By the names of their settings."""


def typed_flags(words: Sequence[str], meaning: Mapping[str, str], place: str) -> dict[str, Flag]:
    """Return the flags that words of a command line give.

    meaning: the setting of each flag that is known, see `fastimae.flags.flags_of`. Raises
    ConfigError for a flag that is given twice, and for a word that belongs to none.
    """
    if problem := repeated(words, meaning):
        raise ConfigError(f"{place}: {problem}")
    found: dict[str, list[str]] = {}
    values: list[str] | None = None
    for word in words:
        if word.startswith("--"):
            flag, equals, value = word.partition("=")
            values = found.setdefault(spelled(flag), [value] if equals else [])
        elif values is None:
            raise ConfigError(f"unexpected {word} {place}: flags come there")
        else:
            values.append(word)
    return {
        meaning.get(flag, flag[2:]): Flag(values or not _is_off(flag, meaning), place)
        for flag, values in found.items()
    }


def _is_off(flag: str, meaning: Mapping[str, str]) -> bool:
    return flag.startswith("--no_") and meaning.get(flag) == flag.removeprefix("--no_")


def words_of(values: Mapping[str, Any]) -> list[str]:
    """Return settings, by name, as the words of a command line."""
    words = []
    for name, value in values.items():
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no_{name}")
        else:
            words += [f"--{name}", *map(str, listed(value))]
    return words


def listed(value: Any) -> Sequence[Any]:
    """Return the values of a flag that takes one or several."""
    return value if isinstance(value, list) else [value]


@functools.cache
def flags_of_paths(options: type) -> frozenset[str]:
    """Return the names of the settings of an options class that are paths of what is read."""
    paths = (flag.name for flag in declared(options) if takes_paths(flag.hint))
    return frozenset(paths) - MADE_FOLDERS


@contextlib.contextmanager
def naming(flags: Flags, otherwise: str) -> Iterator[None]:
    """Add to errors about a command where the flag stands that they name, else `otherwise`."""
    try:
        yield
    except (UsageError, ConfigError) as error:
        message = str(error.args[0])
        named = (name for name in _NAMED.findall(message) if name in flags)
        place = next((flags[name].place for name in named), otherwise)
        raise ConfigError(f"{place}: {message}") from error
