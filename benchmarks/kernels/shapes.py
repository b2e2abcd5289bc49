"""The cases to measure: an op at one shape, with the bytes that it has to move; and the shapes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

U8, BF16, INT, FLOAT = 1, 2, 4, 4
"""Bytes of one value."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class KernelCase:
    """One op at one shape.

    `call(op, inputs)` runs an implementation, `spec(inputs)` the specification; both return one
    tensor or several. Bytes are those of a perfect kernel: inputs read once, outputs written once.
    """

    op: str
    shape: str
    inputs: Callable[[torch.device], dict[str, Tensor]]
    call: Callable[[Callable[..., Any], dict[str, Tensor]], Any]
    spec: Callable[[dict[str, Tensor]], Any]
    forward_bytes: int
    both_bytes: int = 0
    """Bytes of forward and backward together; 0 without a backward pass."""
    forward_flops: int = 0
    both_flops: int = 0
    """Operations, like bytes; both 0 where few of them are products."""
    tolerance: float = 2e-2
    """Largest allowed relative distance of results, as a norm."""


@dataclasses.dataclass(frozen=True)
class ModelShape:
    """A model's sizes at a batch size."""

    name: str
    batch: int
    side: int
    patch: int
    width: int
    heads: int
    decoder_width: int
    decoder_heads: int

    @property
    def grid(self) -> tuple[int, int]:
        """Patches down and across an image."""
        return self.side // self.patch, self.side // self.patch

    @property
    def patches(self) -> int:
        """L, patches of an image."""
        return self.grid[0] ** 2

    @property
    def keep(self) -> int:
        """K, visible patches."""
        return self.patches // 4

    @property
    def masked(self) -> int:
        """M, masked patches."""
        return self.patches - self.keep

    @property
    def values(self) -> int:
        """V, values of a patch."""
        return self.patch**2 * 3


SHAPES = (
    ModelShape("ViT-B/16 224", 1024, 224, 16, 768, 12, 512, 16),
    ModelShape("ViT-L/16 224", 1024, 224, 16, 1024, 16, 512, 16),
    ModelShape("ViT-H/14 224", 512, 224, 14, 1280, 16, 512, 16),
    ModelShape("ViT-Ti/4 32", 4096, 32, 4, 192, 3, 128, 4),
)
SMOKE_SHAPES = (ModelShape("smoke", 4, 32, 8, 48, 3, 32, 2),)


def leaf(*size: int, **options: Any) -> Tensor:
    """Draw a tensor that needs a gradient."""
    return torch.randn(size, **options).requires_grad_()
