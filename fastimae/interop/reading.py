"""Which methods may be replaced, by reading them: what switches on later, no trial can see.

The rule. A method, with every method and function that it calls, may use
- what its replacement uses too: the model's parts by MAE's names, such as `blocks` or `cls_token`;
- sizes and switches of the recipe (`SETTINGS`): watched, for they may change;
- modules that do nothing (Identity, Dropout with p = 0), and `patch_embed`, whose forward is read
  in turn: watched for hooks, another class, another p;
- operations of torch, einops, timm, math and numpy; constants of its module, watched.

Any other attribute (a weight that is ramped up, an epoch that a mask follows), state that it sets,
globals that can change, imports, closures and decorators, getattr and its like: the part is left.
"""

from __future__ import annotations

import builtins
import copy
import dataclasses
import inspect
import sys
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch import nn

from fastimae.interop.bytecode import Unreadable, uses
from fastimae.interop.stateless import (
    BUILTINS,
    TELLING,
    belongs_to_a_value,
    is_constant,
    is_operation,
)
from fastimae.interop.watch import Code, Global, Watch

SETTINGS = frozenset((
    "patch_size", "img_size", "in_chans", "in_c", "in_channels", "num_patches", "grid_size",
    "num_heads", "head_dim", "dim", "embed_dim", "attn_dim", "decoder_embed_dim", "scale", "gate",
    "fused_attn", "flatten", "output_fmt", "strict_img_size", "dynamic_img_pad", "p",
))  # fmt: skip
"""Attributes with plain values that are part of the recipe."""

_IDLE = (nn.Identity, nn.Dropout)
_CONVOLUTION = ("stride", "padding", "dilation", "groups", "padding_mode")


@dataclasses.dataclass(frozen=True)
class Role:
    """How the replacement of a method treats the parts that the method reads.

    shared: used by both in the same way. containers: lists of modules, each called by both.
    bypassed: modules that only the method calls, by the role of their own forward. needed: what
    only the replacement reads.
    """

    shared: tuple[str, ...] = ()
    containers: tuple[str, ...] = ()
    bypassed: dict[str, str] = dataclasses.field(default_factory=dict)
    needed: tuple[tuple[str, ...], ...] = ()


_DECODER_END = ("decoder_norm", "decoder_pred")
ROLES = {
    "random_masking": Role(),
    "forward_encoder": Role(
        shared=("random_masking", "cls_token", "pos_embed", "norm"),
        containers=("blocks",),
        bypassed={"patch_embed": "patches"},
    ),
    "forward_decoder": Role(
        shared=("decoder_embed", "mask_token", "decoder_pos_embed", *_DECODER_END),
        containers=("decoder_blocks",),
    ),
    "forward_loss": Role(shared=("norm_pix_loss",), needed=(("patch_embed", "patch_size"),)),
    "forward": Role(shared=("qkv", "proj", "num_heads")),  # of an attention module
    "patches": Role(bypassed={"proj": "convolution"}),
}


def watch_of(module: nn.Module, name: str, like: torch.Tensor) -> Watch:
    """Read the module's method, and what has to stay as it is while a replacement stands for it.

    like: a parameter, on the device and in the number format of the trials. Raises ValueError with
    the reason where the method must not be replaced.
    """
    watch = Watch(like.dtype, like.device.type)
    reader = _Reader(watch, module, ROLES[name])
    reader.method(name)
    for names in reader.role.needed:
        reader.attribute(names)
    if reason := watch.change():
        raise ValueError(reason)
    return watch


class _Reader:
    """Follows a method of one module through what it calls, and fills the watch."""

    def __init__(self, watch: Watch, module: nn.Module, role: Role) -> None:
        for name in ("__getattr__", "__getattribute__"):
            if getattr(type(module), name) is not getattr(nn.Module, name):
                raise Unreadable(f"{type(module).__name__} has a {name} of its own")
        self.watch, self.module, self.role = watch, module, role
        self.read: set[FunctionType] = set()

    def method(self, name: str, after: type | None = None) -> None:
        """Read the class's method; after: the one that its super() finds from that class on."""
        classes = type(self.module).__mro__
        classes = classes[classes.index(after) + 1 :] if after else classes
        home = next((kind for kind in classes if name in vars(kind)), None)
        found = vars(home)[name] if home else None
        function = found.__func__ if isinstance(found, staticmethod) else found
        if not isinstance(function, FunctionType):
            raise Unreadable(f"{name} is no plain method")
        owner = home if after else self.module
        self.watch.methods.append((owner, name, Code(function.__code__)))
        self.function(function, name, home, is_method=found is function)

    def function(
        self, function: FunctionType, name: str, home: type | None = None, is_method: bool = False
    ) -> None:
        """Judge everything that the function uses. home: the class that defines it."""
        if function in self.read:
            return
        self.read.add(function)
        defaults = *(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()
        if not is_constant(defaults):
            raise Unreadable(f"{name} keeps state in its defaults")
        try:
            found = uses(function, is_method)
        except Unreadable as error:
            raise Unreadable(f"{name} {error}") from None
        for use in found:
            if use.of == "self":
                self.attribute(use.names)
            elif use.of == "super":
                self.method(use.names[0], after=home)
            elif use.of == "global":
                self.global_name(function, use.names)
            elif not belongs_to_a_value(use.names[0]):
                raise Unreadable(f"{name} reads .{use.names[0]} of something")

    def attribute(self, names: tuple[str, ...]) -> None:
        """self.a.b.c, from the left to where the rule knows it."""
        owner, path = self.module, "self." + ".".join(names)
        for place, name in enumerate(names):
            rest = names[place + 1 :]
            if owner is self.module and self._known(name, rest):
                return
            value = inspect.getattr_static(type(owner), name, None)
            if isinstance(value, property):
                raise Unreadable(f"reads {path}, which is computed")
            value = getattr(owner, name, None)
            idle = type(value) in _IDLE and rest in ((), ("p",))
            setting = name in SETTINGS and is_constant(value, (tuple, list))
            if not (idle or setting or (isinstance(value, nn.Module) and rest)):
                break
            kept = value if isinstance(value, nn.Module) else copy.deepcopy(value)
            self.watch.values.append((owner, name, kept))
            if idle:
                self._idle(value)
            if idle or setting:
                return
            owner = value
        raise Unreadable(f"reads {path}, which may change what it does")

    def _known(self, name: str, rest: tuple[str, ...]) -> bool:
        """Whether it is a part that the role names, or a method, which is then read."""
        role, value = self.role, getattr(self.module, name, None)
        if name == "training":
            return True
        if name in role.shared:
            return not rest or (isinstance(value, torch.Tensor) and not TELLING & {*rest})
        if name in role.containers:
            self.watch.containers.append((self.module, name))
            return not rest
        if name in role.bypassed and not rest:
            self.watch.values.append((self.module, name, value))
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

    def _bypass(self, module: Any, role: str) -> None:
        """A module that is not called any more: read its forward, or know its class."""
        if type(module).__call__ is not nn.Module.__call__:
            raise Unreadable(f"{type(module).__name__} is called in a way of its own")
        self.watch.bypassed.append((module, type(module)))
        if role != "convolution":
            _Reader(self.watch, module, ROLES[role]).method("forward")
        elif type(module) is not nn.Conv2d:
            raise Unreadable(f"{type(module).__name__} stands for a Conv2d")
        else:
            settings = ((name, getattr(module, name)) for name in _CONVOLUTION)
            self.watch.values.extend((module, *setting) for setting in settings)

    def _idle(self, module: nn.Module) -> None:
        self.watch.bypassed.append((module, type(module)))
        if isinstance(module, nn.Dropout):
            if module.p:
                raise Unreadable(f"differs in training: {module}")
            self.watch.values.append((module, "p", module.p))

    def global_name(self, function: FunctionType, names: tuple[str, ...]) -> None:
        """A global, or the attribute of one: an operation, a constant, a function to read."""
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
            self.watch.globals.append(Global(home, name, Code(value.__code__)))
            self.function(value, name)
        else:
            self.watch.globals.append(Global(home, name, value))


def _home(function: FunctionType) -> ModuleType | None:
    """The Python module whose names are the function's globals, if it can be found again."""
    home = sys.modules.get(function.__module__)
    return home if home and vars(home) is function.__globals__ else None
