"""The names that a function reads, from its bytecode: globals, attributes of self and of others.

Source code may be missing, or newer than what runs; the bytecode is what runs. What cannot be
followed is refused, never guessed.
"""

from __future__ import annotations

import dataclasses
import dis
import inspect
from collections.abc import Iterator
from types import CodeType, FunctionType
from typing import Literal

_ATTRIBUTE = ("LOAD_ATTR", "LOAD_METHOD")
_VARIABLE = ("LOAD_FAST", "LOAD_DEREF", "STORE_FAST", "DELETE_FAST", "STORE_DEREF", "DELETE_DEREF")
_NO_EFFECT = ("CACHE", "NOP", "EXTENDED_ARG", "PRECALL", "PUSH_NULL")
_REFUSED = {
    "STORE_ATTR": "sets the attribute {}",
    "DELETE_ATTR": "deletes the attribute {}",
    "STORE_GLOBAL": "sets the global {}",
    "DELETE_GLOBAL": "deletes the global {}",
    "LOAD_NAME": "looks up {} by name",
    "STORE_NAME": "sets {} by name",
    "IMPORT_NAME": "imports {}",
    "LOAD_BUILD_CLASS": "defines a class",
    "MATCH_CLASS": "matches a class",
}
_GENERATOR = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR


class Unreadable(ValueError):
    """A function whose bytecode cannot be followed. The message says what it does."""


@dataclasses.dataclass(frozen=True)
class Use:
    """Something that code reads.

    names: the chain of names: (a, b, c) for self.a.b.c or the global a.b.c, (a,) for super().a;
    for anything else, its one attribute.
    """

    of: Literal["self", "super", "global", "other"]
    names: tuple[str, ...]


def uses(function: FunctionType, is_method: bool) -> list[Use]:
    """Return everything that the function reads, without duplicates. Raises Unreadable."""
    code = function.__code__
    closed = [name for name in code.co_freevars if name != "__class__"]
    if closed or hasattr(function, "__wrapped__"):
        raise Unreadable(f"is decorated, or a closure over {', '.join(closed) or 'another'}")
    if code.co_flags & _GENERATOR:
        raise Unreadable("is a generator")
    if is_method and not code.co_argcount:
        raise Unreadable("takes no self")
    return list(dict.fromkeys(_uses(code, code.co_varnames[0] if is_method else None)))


def _uses(code: CodeType, self_name: str | None) -> Iterator[Use]:
    steps = [step for step in dis.get_instructions(code) if step.opname not in _NO_EFFECT]
    at = 0
    while at < len(steps):
        step = steps[at]
        at += 1
        if step.opname in _REFUSED:
            raise Unreadable(_REFUSED[step.opname].format(step.argval))
        if self_name in _variables(step):
            names, at = _attribute_chain(steps, at)
            if _variables(step).index(self_name) < len(_variables(step)) - 1:
                raise Unreadable("passes self on")
            yield _use_of_self(step, names, steps[at] if at < len(steps) else None)
        elif step.opname == "LOAD_GLOBAL":
            if step.argval == "super" and _calls_without_arguments(steps, at):
                at += 1
                names, at = _attribute_chain(steps, at)
                yield Use("super", names)
            elif step.argval != "super" or not self_name:
                names, at = _attribute_chain(steps, at)
                yield Use("global", (step.argval, *names))
        elif step.opname in _ATTRIBUTE:
            yield Use("other", (step.argval,))
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _uses(inner, self_name if self_name in inner.co_freevars else None)


def _variables(step: dis.Instruction) -> tuple[str, ...]:
    """Return the local variables that the step reads or writes (since Python 3.13, up to two)."""
    if not any(kind in step.opname for kind in _VARIABLE):
        return ()
    return step.argval if isinstance(step.argval, tuple) else (step.argval,)


def _use_of_self(
    step: dis.Instruction, names: tuple[str, ...], following: dis.Instruction | None
) -> Use:
    if following is not None and following.opname in ("STORE_ATTR", "DELETE_ATTR"):
        raise Unreadable(f"sets self.{'.'.join((*names, following.argval))}")
    if not names and following is not None and following.opname == "LOAD_SUPER_ATTR":
        return Use("super", (following.argval,))
    if not names or "LOAD_" not in step.opname:
        raise Unreadable("passes self on")
    return Use("self", names)


def _attribute_chain(steps: list[dis.Instruction], at: int) -> tuple[tuple[str, ...], int]:
    """Return the chain of attributes that starts here, and the index of the step after it."""
    start = at
    while at < len(steps) and steps[at].opname in _ATTRIBUTE:
        at += 1
    return tuple(step.argval for step in steps[start:at]), at


def _calls_without_arguments(steps: list[dis.Instruction], at: int) -> bool:
    return at < len(steps) and steps[at].opname == "CALL" and steps[at].argval == 0
