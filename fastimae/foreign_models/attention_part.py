"""Attention with a packed projection: timm's current and older forms, and those of MAE's forks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from fastimae import kernels
from fastimae.foreign_models.part import Part
from fastimae.foreign_models.static_analysis import Role, analysed


def attention(self: Any, x: Tensor) -> Tensor:
    """Compute multi-head attention on the packed projection of x [B, L, D]."""
    return self.proj(kernels.attention(self.qkv(x).unflatten(-1, (3, self.num_heads, -1))))


def noise_like(self: Any, x: Tensor) -> Iterator[tuple[Tensor]]:
    """Yield noise in place of x: in a fresh model, tokens may all be alike."""
    generator = torch.Generator().manual_seed(3)
    yield (torch.randn(x.shape, generator=generator).to(x).requires_grad_(x.requires_grad),)


def _recognise(module: nn.Module) -> str | None:
    """Recognise it by its class's name, or a packed projection; it needs qkv, proj, num_heads."""
    if "attention" not in type(module).__name__.lower() and not hasattr(module, "qkv"):
        return None
    for name in ("qkv", "proj"):
        if not isinstance(getattr(module, name, None), nn.Linear):
            raise TypeError(f"{type(module).__name__} has no Linear called {name}")
    if not isinstance(getattr(module, "num_heads", None), int):
        raise TypeError(f"{type(module).__name__} has no num_heads")
    return "forward"


ATTENTION = Part(
    name="attention",
    recognise=_recognise,
    arguments=1,
    replacement=attention,
    preconditions=analysed(Role(shared=("qkv", "proj", "num_heads"))),
    fits=lambda self, x: x.ndim == 3,
    more=noise_like,
)
