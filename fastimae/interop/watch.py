"""What a replacement rests upon, looked at before each call: where it has changed, the model's own
method runs.

All of it is told without operations on tensors, so that torch.compile makes guards of it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
from types import CodeType, ModuleType
from typing import Any

import torch
import torch.nn.modules.module as global_hooks
from torch import Tensor, nn

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_GLOBAL_HOOKS = tuple(f"_global{name}" for name in _HOOKS)


class Code:
    """A function's code. Where it is not the same object (read from a file, defined anew in a
    notebook), the same instructions count as the same."""

    def __init__(self, code: CodeType) -> None:
        self.code: CodeType | None = code
        self.print = _print(code)

    def __getstate__(self) -> dict[str, Any]:
        return {"code": None, "print": self.print}

    def __deepcopy__(self, memo: dict[int, Any]) -> Code:
        return self

    def is_of(self, function: Any) -> bool:
        """Whether the function still runs this code."""
        code = getattr(function, "__code__", None)
        if code is self.code and code is not None:
            return True
        if torch.compiler.is_compiling() or not isinstance(code, CodeType):
            return False
        if _print(code) != self.print:
            return False
        self.code = code
        return True


def _print(code: CodeType) -> str:
    constants = [_print(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts]
    parts = code.co_code, code.co_names, code.co_varnames, code.co_freevars, constants
    return hashlib.sha256(repr(parts).encode()).hexdigest()


class Global:
    """A name of a Python module, and what it stood for: a function's `Code`, or a constant."""

    def __init__(self, home: ModuleType, name: str, value: Any) -> None:
        self.home, self.name, self.value = home, name, value

    def __reduce__(self) -> tuple[Any, ...]:
        return _named_global, (self.home.__name__, self.name, self.value)

    def is_unchanged(self) -> bool:
        """Whether it still stands for the same."""
        now = getattr(self.home, self.name, None)
        return self.value.is_of(now) if isinstance(self.value, Code) else _same(now, self.value)


def _named_global(home: str, name: str, value: Any) -> Global:
    return Global(importlib.import_module(home), name, value)


@dataclasses.dataclass(eq=False)
class Watch:
    """See the module's docstring."""

    dtype: torch.dtype
    device: str
    """Kind of device, and number format, in which both sides were compared."""
    bypassed: list[tuple[nn.Module, type]] = dataclasses.field(default_factory=list)
    """Modules that are not called any more, each with its class."""
    containers: list[tuple[nn.Module, str]] = dataclasses.field(default_factory=list)
    """Names of modules whose children are called without them."""
    values: list[tuple[nn.Module, str, Any]] = dataclasses.field(default_factory=list)
    """Attributes that were read, and what they were."""
    methods: list[tuple[nn.Module | type, str, Code]] = dataclasses.field(default_factory=list)
    """Methods that were read: of a module, or those that a class defines."""
    globals: list[Global] = dataclasses.field(default_factory=list)

    def change(self) -> str:
        """What is not as it was, or nothing."""
        for name in _GLOBAL_HOOKS:
            if getattr(global_hooks, name):
                return "there is a hook on all modules"
        for module, kind in self.bypassed:
            if reason := stirred(module, kind):
                return reason
        for owner, name in self.containers:
            module = getattr(owner, name)
            if type(module) not in (nn.ModuleList, nn.Sequential):
                return f"{name} is a {type(module).__name__}"
            if reason := stirred(module, type(module)):
                return reason
        for owner, name, value in self.values:
            if not _same(getattr(owner, name, None), value):
                return f"{name} has changed"
        for owner, name, code in self.methods:
            kind = owner
            if isinstance(owner, nn.Module):
                kind, own = type(owner), owner.__dict__.get(name)
                if own is not None and not hasattr(own, "watch"):  # no replacement of ours
                    return f"{name} was replaced"
            if not code.is_of(getattr(kind, name, None)):
                return f"{name} was changed in the class"
        for one in self.globals:
            if not one.is_unchanged():
                return f"the global {one.name} has changed"
        return ""

    def move(self, x: Any) -> str:
        """Why nobody knows whether both sides do the same with x: it is elsewhere, or of another
        number format, than what they were compared with."""
        if not isinstance(x, Tensor):
            return "it is called without a tensor"
        if x.device.type != self.device:
            return (
                f"accelerate() was called on {self.device}, not on {x.device.type}: call it again"
            )
        if x.dtype == self.dtype:
            return ""
        if torch.is_autocast_enabled(self.device):
            return "" if x.dtype == torch.get_autocast_dtype(self.device) else f"x is {x.dtype}"
        return f"accelerate() was called with {self.dtype}, not with {x.dtype}: call it again"


def stirred(module: nn.Module, kind: type) -> str:
    """Why not calling the module would be noticed, or nothing: it has hooks, another class
    (parametrizations change it), or a forward of its own."""
    if type(module) is not kind:
        return f"a {kind.__name__} became a {type(module).__name__}"
    for name in _HOOKS:
        if getattr(module, name):
            return f"{kind.__name__} has a hook, and would not be called"
    if callable(module.__dict__.get("forward")):
        return f"{kind.__name__} has a forward of its own"
    return ""


def _same(now: Any, before: Any) -> bool:
    if now is before:
        return True
    return type(now) is type(before) and not isinstance(now, nn.Module) and now == before
