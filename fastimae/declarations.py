"""The flags of an options class as declared: name, type, help text and default."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import itertools
import re
import textwrap
import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import tyro

from fastimae.settings import EXPERT, hints_of

_NAMES = {str: "TEXT", bool: ""}


class Flag(NamedTuple):
    """A flag or positional argument, as declared."""

    name: str
    hint: Any
    text: str
    default: Any

    @property
    def notes(self) -> tuple[Any, ...]:
        """The annotations of its type."""
        return getattr(self.hint, "__metadata__", ())

    @property
    def positional(self) -> bool:
        """Whether its value is given without a name."""
        return tyro.conf.Positional in self.notes

    @property
    def required(self) -> bool:
        """Whether it has no default."""
        return self.default in (dataclasses.MISSING, tyro.MISSING)

    @property
    def expert(self) -> bool:
        """Whether only --help-all shows it."""
        return EXPERT in self.notes

    @property
    def choices(self) -> tuple[str, ...]:
        """The values that its help lists, {auto,on,off}; () if it takes others, too."""
        listed = re.fullmatch(r"\{(.+)\}", _metavar(self.hint))
        return tuple(listed[1].split(",")) if listed else ()

    def spelled(self, *, aliases: bool = True) -> str:
        """Return how to type it: "--lr FLOAT", or "SRC" for a positional argument."""
        value = _metavar(self.hint)
        if self.positional:
            return value
        others = [alias for note in self.notes for alias in getattr(note, "aliases", None) or ()]
        if self.default is True:
            others.append(f"--no_{self.name}")
        names = ", ".join([f"--{self.name}", *(others if aliases else ())])
        return f"{names} {value}".rstrip()


def groups_of(options: type, values: Any) -> Iterator[tuple[str, list[Flag]]]:
    """Yield a title and flags for each field of `options` that is a group of settings.

    The other flags follow by the class that declares them: those of `options` itself, without a
    title, then those of its bases.
    """
    flags = _flags(options, values)
    for flag in flags:
        if dataclasses.is_dataclass(flag.hint):
            yield documentation(flag.hint)[0], _flags(flag.hint, flag.default)
    rest = {flag.name: flag for flag in flags if not dataclasses.is_dataclass(flag.hint)}
    for owner in options.__mro__:
        own = [rest.pop(name) for name in inspect.get_annotations(owner) if name in rest]
        yield "" if owner is options else documentation(owner)[0], own


def declared(options: type, values: Any = None) -> list[Flag]:
    """Return all flags of an options class; positional ones in the order in which they are given.

    values: an instance with the defaults; None: the declared ones.
    """
    order = [field.name for field in dataclasses.fields(options)]
    flags = [flag for _, group in groups_of(options, values) for flag in group]
    return sorted(flags, key=lambda flag: order.index(flag.name) if flag.name in order else -1)


def documentation(documented: Any) -> list[str]:
    """Return the lines of a docstring, without their common indentation."""
    return inspect.cleandoc(documented.__doc__ or "").splitlines() or [""]


def _flags(options: type, values: Any) -> list[Flag]:
    hints = hints_of(options)
    return [
        Flag(field.name, hints[field.name], _text(options, field.name), _default(field, values))
        for field in dataclasses.fields(options)
    ]


def _default(field: dataclasses.Field, values: Any) -> Any:
    if values is not None:
        return getattr(values, field.name)
    made = field.default_factory
    return field.default if made is dataclasses.MISSING else made()


def _text(options: type, name: str) -> str:
    """Return the help of a field: that of the first class, from `options` on, that has one."""
    return next((texts[name] for cls in options.__mro__ if name in (texts := _texts(cls))), "")


@functools.cache
def _texts(cls: type) -> dict[str, str]:
    """Return the string below each field in a class's own body; {} for one made at run time."""
    try:
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    except (OSError, TypeError):
        return {}
    return {
        ast.unparse(field.target): " ".join(text.value.value.split())
        for field, text in itertools.pairwise(tree.body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
    }


def _metavar(hint: Any) -> str:
    """Return the placeholder for a value of this type: INT, {auto,on,off}, FLOAT FLOAT."""
    origin, choices = get_origin(hint), get_args(hint)
    if origin is Annotated:
        given = [note.metavar for note in hint.__metadata__ if getattr(note, "metavar", None)]
        return given[0] if given else _metavar(choices[0])
    if origin is Literal:
        return f"{{{','.join(map(str, choices))}}}"
    if origin in (Union, types.UnionType):
        return "|".join(_metavar(each) for each in choices if each is not type(None))
    if choices:  # of a tuple or a list
        many = choices if origin is tuple else (*choices, ...)
        return " ".join("..." if each is ... else _metavar(each) for each in many)
    return _NAMES.get(hint, getattr(hint, "__name__", "VALUE").upper())
