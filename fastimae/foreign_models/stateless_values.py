"""Values and operations known to be stateless: they do the same in every call."""

from __future__ import annotations

import enum
import math
from typing import Any

import numpy
import torch
import torch.nn.functional as F

BUILTINS = frozenset((
    "abs", "all", "any", "bool", "dict", "divmod", "enumerate", "float", "int", "isinstance", "len",
    "list", "max", "min", "pow", "range", "reversed", "round", "set", "slice", "sorted", "str",
    "sum", "super", "tuple", "zip", "AssertionError", "ValueError", "TypeError", "RuntimeError",
    "NotImplementedError",
))  # fmt: skip
_PLAIN = (bool, int, float, str, bytes, torch.dtype, torch.device, enum.Enum, type(None))
_LIBRARIES = (F, torch.functional, torch.linalg, torch.special, torch.fft, math)
_OPERATIONS = frozenset(
    id(value)
    for library in _LIBRARIES
    for value in vars(library).values()
    if callable(value) and not isinstance(value, type)
)
_HARMLESS = (torch.no_grad, torch.enable_grad, torch._assert)
_HOLDERS = (torch.Tensor, list, dict, tuple, str, int, float)
AUTOGRAD_ATTRIBUTES = frozenset((
    "register_hook", "register_post_accumulate_grad_hook", "retain_grad", "backward", "grad",
    "grad_fn", "requires_grad", "is_leaf", "_version", "data",
))  # fmt: skip


def is_operation(value: Any, *rest: str) -> bool:
    """Return whether a global is a stateless operation, or with `rest` a constant of timm's enums.

    rest: attributes that the code reads of the global.
    """
    if rest:
        value = getattr(value, rest[0], None) if isinstance(value, enum.EnumMeta) else None
        return len(rest) == 1 and (type(value).__module__ or "").startswith("timm.")
    name, home = getattr(value, "__name__", ""), getattr(value, "__module__", None) or ""
    if home.startswith(("einops.", "timm.layers.")) and callable(value):
        return True
    if isinstance(value, (numpy.ufunc, torch.dtype)) or any(
        value is harmless for harmless in _HARMLESS
    ):
        return True
    if isinstance(value, type):
        return home.startswith("torch.nn.modules.") or value in (torch.Tensor, torch.Size)
    if hasattr(torch._C._VariableFunctions, name) and getattr(torch, name, None) is value:
        return True
    return id(value) in _OPERATIONS


def is_constant(value: Any, holders: tuple[type, ...] = (tuple,)) -> bool:
    """Return whether a value is immutable, so that it can be compared with later."""
    if isinstance(value, holders):
        return all(is_constant(item, holders) for item in value)
    return isinstance(value, _PLAIN)


def is_value_attribute(name: str) -> bool:
    """Return whether this is an attribute of tensors or Python's containers, unrelated to autograd.

    Autograd's attributes reveal, or attach something to, what a replacement computes differently.
    """
    return (
        name not in AUTOGRAD_ATTRIBUTES
        and not name.startswith("__")
        and any(hasattr(kind, name) for kind in _HOLDERS)
    )
