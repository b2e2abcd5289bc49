"""Preconditions of a replacement, checked before each call: if one changed, the original runs.

No check needs an operation on tensors, so torch.compile turns them into guards.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
from types import CodeType, ModuleType
from typing import Any

import torch
import torch.nn.modules.module as global_hooks
from torch import nn

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_GLOBAL_HOOKS = tuple(f"_global{name}" for name in _HOOKS)


class CodeSnapshot:
    """A function's code, to recognise it later.

    Another code object with the same instructions (unpickled, or defined again in a notebook)
    counts as the same.
    """

    def __init__(self, code: CodeType) -> None:
        self.code: CodeType | None = code
        self.fingerprint = _fingerprint(code)

    def __getstate__(self) -> dict[str, Any]:
        return {"code": None, "fingerprint": self.fingerprint}

    def __deepcopy__(self, memo: dict[int, Any]) -> CodeSnapshot:
        return self

    def is_of(self, function: Any) -> bool:
        """Return whether the function still runs this code."""
        code = getattr(function, "__code__", None)
        if code is self.code and code is not None:
            return True
        if torch.compiler.is_compiling() or not isinstance(code, CodeType):
            return False
        if _fingerprint(code) != self.fingerprint:
            return False
        self.code = code
        return True


def _fingerprint(code: CodeType) -> str:
    constants = [_fingerprint(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts]
    parts = code.co_code, code.co_names, code.co_varnames, code.co_freevars, constants
    return hashlib.sha256(repr(parts).encode()).hexdigest()


class GlobalSnapshot:
    """A global of a Python module and its value: a function's `CodeSnapshot`, or a constant."""

    def __init__(self, home: ModuleType, name: str, value: Any) -> None:
        self.home, self.name, self.value = home, name, value

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore_global, (self.home.__name__, self.name, self.value)

    def is_unchanged(self) -> bool:
        """Return whether the global still has this value."""
        current = getattr(self.home, self.name, None)
        if isinstance(self.value, CodeSnapshot):
            return self.value.is_of(current)
        return _same(current, self.value)


def _restore_global(home: str, name: str, value: Any) -> GlobalSnapshot:
    return GlobalSnapshot(importlib.import_module(home), name, value)


@dataclasses.dataclass(eq=False)
class Preconditions:
    """Everything about a model that was read or assumed when a replacement was proven."""

    bypassed: list[tuple[nn.Module, type]] = dataclasses.field(default_factory=list)
    """Modules that the replacement does not call, each with its class."""
    containers: list[tuple[nn.Module, str]] = dataclasses.field(default_factory=list)
    """(owner, name) of lists of modules whose children are called directly."""
    values: list[tuple[nn.Module, str, Any]] = dataclasses.field(default_factory=list)
    """(owner, name, value) of attributes that the method reads."""
    methods: list[tuple[nn.Module | type, str, CodeSnapshot]] = dataclasses.field(
        default_factory=list
    )
    """(owner, name, code) of analysed methods: a module's own, or those that a class defines."""
    lengths: list[tuple[nn.Module, int]] = dataclasses.field(default_factory=list)
    """(sequence of modules, how many it has)."""
    globals: list[GlobalSnapshot] = dataclasses.field(default_factory=list)

    def change(self) -> str:
        """Describe the first change, "" if there is none."""
        for name in _GLOBAL_HOOKS:
            if getattr(global_hooks, name):
                return "there is a hook on all modules"
        for module, kind in self.bypassed:
            if reason := bypass_problem(module, kind):
                return reason
        for owner, name in self.containers:
            module = getattr(owner, name)
            if type(module) not in (nn.ModuleList, nn.Sequential):
                return f"{name} is a {type(module).__name__}"
            if reason := bypass_problem(module, type(module)):
                return reason
        for sequence, length in self.lengths:
            if len(sequence) != length:
                return f"a {type(sequence).__name__} has {len(sequence)} modules, not {length}"
        for owner, name, value in self.values:
            if not _same(getattr(owner, name, None), value):
                return f"{name} has changed"
        for owner, name, code in self.methods:
            kind = owner
            if isinstance(owner, nn.Module):
                kind, own = type(owner), owner.__dict__.get(name)
                if own is not None and not hasattr(
                    own, "preconditions"
                ):  # not one of our replacements
                    return f"{name} was replaced"
            if not code.is_of(getattr(kind, name, None)):
                return f"{name} was changed in the class"
        for snapshot in self.globals:
            if not snapshot.is_unchanged():
                return f"the global {snapshot.name} has changed"
        return ""


def bypass_problem(module: nn.Module, kind: type) -> str:
    """Describe why the module must be called: hooks, another class, a replaced forward; "" if none.

    Parametrizations change a module's class, too.
    """
    if type(module) is not kind:
        return f"a {kind.__name__} became a {type(module).__name__}"
    for name in _HOOKS:
        if getattr(module, name):
            return f"{kind.__name__} has a hook, which would not be called"
    if callable(module.__dict__.get("forward")):
        return f"{kind.__name__} has a replaced forward"
    return ""


def _same(current: Any, before: Any) -> bool:
    if current is before:
        return True
    if type(current) is not type(before) or isinstance(current, nn.Module):
        return False
    return current == before
