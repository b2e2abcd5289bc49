"""Values of settings as text: read one by its type, and say in words what the type takes."""

from __future__ import annotations

import contextlib
import io
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import tyro

MANY = 1 << 30
"""The number of values that a flag takes if there is no limit."""
_IN_WORDS = {
    bool: ("true or false", "values true or false"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    Path: ("a path", "paths"),
    str: ("a text", "texts"),
}
"""A value of each type, and several."""


def read_value(hint: Any, texts: Sequence[str]) -> Any:
    """Return the value of a type that texts spell, by the rules for flags. Raises ValueError."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # tyro prints some errors regardless
            return tyro.cli(plain(hint), args=["--", *texts], console_outputs=False)
    except SystemExit:
        raise ValueError(f"it takes {expected(hint)}") from None


def plain(hint: Any) -> Any:
    """Return a type without annotations, however nested."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return plain(parts[0])
    if origin in (Union, types.UnionType):
        return Union[tuple(map(plain, parts))]  # noqa: UP007
    if origin in (tuple, list):
        return origin[tuple(part if part is ... else plain(part) for part in parts)]
    return hint


def expected(hint: Any) -> str:
    """Return what a type takes: "a whole number", "one of on, off", "2 numbers"."""
    return " or ".join(_in_words(part) for part in _alternatives(hint))


def choices(hint: Any) -> tuple[str, ...]:
    """Return the values to choose from, as text; () if the type does not list them."""
    return tuple(
        str(choice)
        for part in _alternatives(hint)
        if get_origin(part) is Literal
        for choice in get_args(part)
    )


def takes_paths(hint: Any) -> bool:
    """Return whether values are paths: an empty text would be the current folder."""
    return any(Path in (part, *get_args(part)) for part in _alternatives(hint))


def arity(hint: Any) -> int:
    """Return the number of values that a flag of this type takes at most; 0 for a switch."""
    return max(0 if part is bool else _length(part) for part in _alternatives(hint))


def _alternatives(hint: Any) -> list[Any]:
    """Return the types that a value may have, without None."""
    bare = plain(hint)
    parts = get_args(bare) if get_origin(bare) in (Union, types.UnionType) else (bare,)
    return [part for part in parts if part is not type(None)]


def _length(bare: Any) -> int:
    if get_origin(bare) not in (tuple, list):
        return 1
    parts = get_args(bare)
    return MANY if get_origin(bare) is list or ... in parts else len(parts)


def _in_words(bare: Any) -> str:
    if get_origin(bare) is Literal:
        return f"one of {', '.join(map(str, get_args(bare)))}"
    if get_origin(bare) in (tuple, list):
        one = get_args(bare)[0]
        many = "one or more" if _length(bare) == MANY else f"{_length(bare)}"
        if get_origin(one) is Literal:
            return f"{many} of {', '.join(map(str, get_args(one)))}"
        return f"{many} {_IN_WORDS.get(one, ('', 'values'))[1]}"
    return _IN_WORDS.get(bare, ("a value",))[0]
