"""Cases that kernels are compiled for: calls of ops, at the shapes of these models."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class AotCase:
    """A call of an op, and of its backward pass if it has one.

    narrow: bytes per thread of bulk tensors that allow fewer than 8, by pointer. only_on: the
    architectures it is for; None: all. long_sums: whether its products are long sums.
    """

    op: str
    name: str
    call: Callable[[], object]
    narrow: Mapping[str, int] = dataclasses.field(default_factory=dict)
    only_on: frozenset[int] | None = None
    long_sums: bool = False


@dataclasses.dataclass(frozen=True)
class ModelSizes:
    """Sizes of a masked autoencoder in training. The batch is as divisible as real ones are."""

    name: str
    side: int
    patch: int
    width: int
    heads: int
    decoder_width: int = 512
    decoder_heads: int = 16
    batch: int = 16
    dtype: torch.dtype = torch.bfloat16
    channels: int = 3
    pixels: torch.dtype = torch.uint8

    @property
    def patches(self) -> int:
        """L, patches of an image."""
        return (self.side // self.patch) ** 2

    @property
    def keep(self) -> int:
        """K, visible patches."""
        return self.patches // 4

    @property
    def aligned(self) -> int:
        """Bytes that rows of a patch are aligned to, up to 8."""
        row = self.channels * self.patch * self.pixels.itemsize
        return min(row & -row, 8)


MODELS = (
    ModelSizes("ViT-B/16 224", 224, 16, 768, 12),
    ModelSizes("ViT-L/16 224", 224, 16, 1024, 16),
    ModelSizes("ViT-H/14 224", 224, 14, 1280, 16),
    ModelSizes("ViT-Ti/2 32", 32, 2, 192, 3, 192, 3),
    ModelSizes("ViT-Ti/4 32", 32, 4, 192, 3, 192, 3),
    ModelSizes("ViT-B/16 224 fp32", 224, 16, 768, 12, dtype=torch.float32),
)
BANDS = tuple(
    dataclasses.replace(
        MODELS[0], name=f"{MODELS[0].name}, {count} bands", channels=count, pixels=torch.uint16
    )
    for count in (6, 13)
)
"""Models of images with many channels of 16 bits."""


def ids(model: ModelSizes, count: int) -> Tensor:
    """Make patch ids: int32 [batch, count]."""
    return torch.zeros(model.batch, count, dtype=torch.int32)


def floats(model: ModelSizes, *shape: int) -> Tensor:
    """Make a tensor [batch, *shape] that needs a gradient."""
    return torch.zeros(model.batch, *shape, dtype=model.dtype, requires_grad=True)
