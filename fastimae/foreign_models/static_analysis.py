"""Static analysis of a foreign method: whether it may be replaced, and its preconditions.

No trial can see what is switched on later, so the code itself must rule that out. A method, with
every method and function that it calls, may use
- what its replacement uses, too: the model's parts by MAE's names, such as `blocks`, `cls_token`;
- sizes and switches of the architecture (`SETTINGS`), which become preconditions, as they may
  change;
- modules that do nothing (Identity, Dropout with p = 0), and `patch_embed`, whose forward is
  analysed in turn: preconditions are no hooks, the same class, the same p;
- stateless operations of torch, einops, timm, math and numpy; constants of its Python module,
  which become preconditions.

With any other attribute (a weight that is ramped up, an epoch that a mask depends on), state that
it sets, mutable globals, imports, closures, decorators, getattr and the like, it is left alone.
"""

from __future__ import annotations

import builtins
import copy
import dataclasses
import functools
import inspect
import sys
from collections.abc import Callable
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch import nn

from fastimae.foreign_models.bytecode import Unreadable, uses
from fastimae.foreign_models.preconditions import CodeSnapshot, GlobalSnapshot, Preconditions
from fastimae.foreign_models.stateless_values import (
    AUTOGRAD_ATTRIBUTES,
    BUILTINS,
    is_constant,
    is_operation,
    is_value_attribute,
)

SETTINGS = frozenset((
    "patch_size", "img_size", "in_chans", "in_c", "in_channels", "num_patches", "grid_size",
    "num_heads", "head_dim", "dim", "embed_dim", "attn_dim", "decoder_embed_dim", "scale", "gate",
    "fused_attn", "flatten", "output_fmt", "strict_img_size", "dynamic_img_pad", "p",
    "num_class_tokens", "num_cls_tokens", "n_cls_tokens", "num_prefix_tokens", "num_registers",
    "num_register_tokens", "mask_unit", "mask_unit_size", "mask_size", "mask_patch_size",
    "mask_stride", "unit_size", "input_size", "num_channels", "channels",
))  # fmt: skip
"""Attributes with plain values that describe the architecture."""

NO_OPS = (nn.Identity, nn.Dropout)
"""Modules that do nothing, or nothing without a rate."""
_RATES = {"Dropout": "p", "DropPath": "drop_prob"}
_EXACT: dict[str, tuple[type, tuple[str, ...]]] = {
    "convolution": (nn.Conv2d, ("stride", "padding", "dilation", "groups", "padding_mode")),
    "linear": (nn.Linear, ()),
    "gelu": (nn.GELU, ("approximate",)),
    "norm": (nn.LayerNorm, ("eps", "normalized_shape")),
}
"""Role of a module that is bypassed -> its class, and settings of it that must stay."""


@dataclasses.dataclass(frozen=True)
class Role:
    """How the replacement of a method treats the parts that the method reads.

    shared: parts that both use in the same way. containers: lists of modules, each of which both
    call. bypassed: modules that only the original calls, each with the role of its forward, or a
    key of `_EXACT`. needed: attributes that only the replacement reads.
    """

    shared: tuple[str, ...] = ()
    containers: tuple[str, ...] = ()
    bypassed: dict[str, Role | str] = dataclasses.field(default_factory=dict)
    needed: tuple[tuple[str, ...], ...] = ()


PATCHES = Role(bypassed={"proj": "convolution"})
"""What a patch embedding may do."""


def analysed(role: Role) -> Callable[[nn.Module, str], Preconditions]:
    """Return the `Part.preconditions` that a method's bytecode gives."""
    return functools.partial(find_preconditions, role=role)


def find_preconditions(module: nn.Module, name: str, role: Role) -> Preconditions:
    """Analyse a method of the module and return what must not change while it is replaced.

    Raises ValueError with the reason if the method must not be replaced.
    """
    preconditions = Preconditions()
    analysis = _Analysis(preconditions, module, role)
    analysis.method(name)
    for names in role.needed:
        analysis.attribute(names)
    if reason := preconditions.change():
        raise ValueError(reason)
    return preconditions


def watch_exact(preconditions: Preconditions, module: nn.Module, role: str) -> None:
    """Add that a module which is not called stays what it is: of this class, with these settings.

    role: a key of `_EXACT`, or "no-op". Raises Unreadable if it is something else already.
    """
    if type(module).__call__ is not nn.Module.__call__:
        raise Unreadable(f"{type(module).__name__} overrides __call__")
    preconditions.bypassed.append((module, type(module)))
    if role == "no-op":
        if rate := _RATES.get(type(module).__name__):
            if getattr(module, rate):
                raise Unreadable(f"differs in training: {module}")
            preconditions.values.append((module, rate, getattr(module, rate)))
        return
    kind, settings = _EXACT[role]
    fast = getattr(module, "_fast_norm", None)  # timm's LayerNorm, which is torch's without it
    if type(module) is not kind and not (role == "norm" and _is_timms(module) and fast is False):
        raise Unreadable(f"{type(module).__name__} is used instead of a {kind.__name__}")
    watched = *settings, *(() if fast is None else ("_fast_norm",))
    preconditions.values.extend((module, name, getattr(module, name)) for name in watched)


def _is_timms(module: nn.Module) -> bool:
    return type(module).__module__.startswith("timm.layers.")


def _is_no_op(value: Any) -> bool:
    return type(value) in NO_OPS or (type(value).__name__ == "DropPath" and _is_timms(value))


class _Analysis:
    """Follows a method of one module through all that it calls; collects its preconditions."""

    def __init__(self, preconditions: Preconditions, module: nn.Module, role: Role) -> None:
        for name in ("__getattr__", "__getattribute__"):
            if getattr(type(module), name) is not getattr(nn.Module, name):
                raise Unreadable(f"{type(module).__name__} overrides {name}")
        self.preconditions, self.module, self.role = preconditions, module, role
        self.analysed: set[FunctionType] = set()

    def method(self, name: str, after: type | None = None) -> None:
        """Analyse the class's method; after: the class whose super() call this is."""
        classes = type(self.module).__mro__
        classes = classes[classes.index(after) + 1 :] if after else classes
        home = next((kind for kind in classes if name in vars(kind)), None)
        attribute = vars(home)[name] if home else None
        is_static = isinstance(attribute, staticmethod)
        function = attribute.__func__ if is_static else attribute
        if not isinstance(function, FunctionType):
            raise Unreadable(f"{name} is not a plain method")
        owner = home if after else self.module
        self.preconditions.methods.append((owner, name, CodeSnapshot(function.__code__)))
        self.function(function, name, home, is_method=not is_static)

    def function(
        self, function: FunctionType, name: str, home: type | None = None, is_method: bool = False
    ) -> None:
        """Check everything that the function uses. home: the class that defines it."""
        if function in self.analysed:
            return
        self.analysed.add(function)
        defaults = *(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()
        if not is_constant(defaults):
            raise Unreadable(f"{name} keeps state in its defaults")
        try:
            reads = uses(function, is_method)
        except Unreadable as error:
            raise Unreadable(f"{name} {error}") from None
        for use in reads:
            if use.of == "self":
                self.attribute(use.names)
            elif use.of == "super":
                self.method(use.names[0], after=home)
            elif use.of == "global":
                self.global_name(function, use.names)
            elif not is_value_attribute(use.names[0]):
                raise Unreadable(f"{name} reads .{use.names[0]} of something")

    def attribute(self, names: tuple[str, ...]) -> None:
        """Check self.a.b.c, from the left to the part that the rules know."""
        owner, path = self.module, "self." + ".".join(names)
        for position, name in enumerate(names):
            rest = names[position + 1 :]
            if owner is self.module and self._known(name, rest):
                return
            value = inspect.getattr_static(type(owner), name, None)
            if isinstance(value, property):
                raise Unreadable(f"reads {path}, which is computed")
            value = getattr(owner, name, None)
            no_op = _is_no_op(value) and rest in ((), ("p",))
            setting = name in SETTINGS and is_constant(value, (tuple, list))
            if not (no_op or setting or (isinstance(value, nn.Module) and rest)):
                break
            kept = value if isinstance(value, nn.Module) else copy.deepcopy(value)
            self.preconditions.values.append((owner, name, kept))
            if no_op:
                watch_exact(self.preconditions, value, "no-op")
            if no_op or setting:
                return
            owner = value
        raise Unreadable(f"reads {path}, which may change what it does")

    def _known(self, name: str, rest: tuple[str, ...]) -> bool:
        """Return whether it is a part that the role names, or a method, which is then analysed."""
        role, value = self.role, getattr(self.module, name, None)
        if name == "training":
            return True
        if name in role.shared:
            return not rest or (
                isinstance(value, torch.Tensor) and not AUTOGRAD_ATTRIBUTES & {*rest}
            )
        if name in role.containers:
            self.preconditions.containers.append((self.module, name))
            return not rest
        if name in role.bypassed and not rest:
            self.preconditions.values.append((self.module, name, value))
            self._bypass(value, role.bypassed[name])
            return True
        if name not in self.module.__dict__ and isinstance(
            inspect.getattr_static(type(self.module), name, None), (FunctionType, staticmethod)
        ):
            if rest or hasattr(nn.Module, name):
                return False
            self.method(name)
            return True
        return False

    def _bypass(self, module: Any, role: Role | str) -> None:
        """Check a module that the replacement does not call: by its forward, or by its class."""
        if isinstance(role, str):
            watch_exact(self.preconditions, module, role)
            return
        if type(module).__call__ is not nn.Module.__call__:
            raise Unreadable(f"{type(module).__name__} overrides __call__")
        self.preconditions.bypassed.append((module, type(module)))
        _Analysis(self.preconditions, module, role).method("forward")

    def global_name(self, function: FunctionType, names: tuple[str, ...]) -> None:
        """Check a global, or its attribute: an operation, a constant, or a function to analyse."""
        name, text = names[0], ".".join(names)
        if name not in function.__globals__:
            if name in BUILTINS and hasattr(builtins, name) and len(names) == 1:
                return
            raise Unreadable(f"uses {text}")
        home, value, rest = _home(function), function.__globals__[name], list(names[1:])
        while rest and isinstance(value, ModuleType):
            home, name = value, rest.pop(0)
            value = getattr(home, name, None)
        if is_operation(value, *rest):
            return
        if rest or home is None or not (isinstance(value, FunctionType) or is_constant(value)):
            raise Unreadable(f"uses the global {text}")
        if isinstance(value, FunctionType) and value.__module__.startswith("torch."):
            raise Unreadable(f"uses {text}, which may do more later")
        if isinstance(value, FunctionType):
            self.preconditions.globals.append(
                GlobalSnapshot(home, name, CodeSnapshot(value.__code__))
            )
            self.function(value, name)
        else:
            self.preconditions.globals.append(GlobalSnapshot(home, name, value))


def _home(function: FunctionType) -> ModuleType | None:
    """Return the Python module of the function's globals, if it can be imported again."""
    home = sys.modules.get(function.__module__)
    return home if home and vars(home) is function.__globals__ else None
