"""Candidates of the sweep: shapes of training, and blocks of our products.

Blocks are (rows, columns, inner, warps, stages). None of them spills registers on its
architecture: `tests.aot` compiles each. Why these, on Hopper:

- A tile of 128 x 128 fills the registers of 4 warps, and two programs fit on a multiprocessor, in
  registers and in shared memory: while one computes GELU, the other's products continue. It moves
  1.5 times as much between cache and multiprocessor as 128 x 256 does.
- 128 x 256 with 8 warps has one program per multiprocessor. Its products are the largest (N = 256),
  but the end of a tile, by instruction count 3 of about 8 microseconds, overlaps only with copies.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch
from torch import Tensor

from fastimae.kernels._mlp_choice import Blocks

Direction = Literal["forward", "backward"]


@dataclasses.dataclass(frozen=True)
class MlpShape:
    """The MLP of a model in training: its rows (images times tokens) and their width."""

    rows: int
    width: int

    def __str__(self) -> str:
        return f"{self.rows} x {self.width}"

    def inputs(self, device: torch.device) -> tuple[Tensor, ...]:
        """Draw x, weight1, bias1, weight2, the gradient of the output and h, in bf16."""
        hidden = 4 * self.width
        shapes = (
            (self.rows, self.width), (hidden, self.width), (hidden,), (self.width, hidden),
            (self.rows, self.width), (self.rows, hidden),
        )  # fmt: skip
        scales = 1, self.width**-0.5, 1, hidden**-0.5, 1, 1
        return tuple(
            scale * torch.randn(*shape, dtype=torch.bfloat16, device=device)
            for shape, scale in zip(shapes, scales, strict=True)
        )


# By value: decoder and encoder of ViT-B at the benchmark's batches, of ViT-L, then larger batches,
# ViT-H, and ViT-Ti of CIFAR-10.
SHAPES = (
    MlpShape(12800, 768),
    MlpShape(50432, 512),
    MlpShape(6400, 1024),
    MlpShape(51200, 768),
    MlpShape(201728, 512),
    MlpShape(25600, 1024),
    MlpShape(8320, 1280),
    MlpShape(33280, 1280),
    MlpShape(16640, 192),
    MlpShape(2048, 192),
)
SMOKE_SHAPES = (MlpShape(140, 48), MlpShape(64, 64))

_HOPPER = {
    "forward": (
        (128, 128, 64, 4, 3), (128, 256, 64, 8, 3), (128, 256, 64, 8, 4), (256, 128, 64, 8, 3),
        (128, 128, 32, 4, 5),
    ),
    "backward": (
        (128, 128, 64, 4, 2), (128, 256, 64, 8, 3), (256, 128, 64, 8, 3), (128, 128, 32, 4, 4),
        (128, 128, 64, 8, 3),
    ),
}  # fmt: skip
_BLOCKS = {
    80: {
        "forward": (
            (128, 128, 32, 4, 3), (128, 128, 32, 8, 3), (128, 128, 32, 4, 4), (128, 256, 32, 8, 3),
            (128, 128, 64, 8, 3),
        ),
        "backward": (
            (128, 128, 32, 8, 3), (128, 128, 64, 8, 3), (128, 128, 32, 8, 4),
        ),
    },
    90: _HOPPER,
    100: _HOPPER,
}  # fmt: skip


def blocks_to_try(direction: Direction, architecture: int) -> list[Blocks]:
    """List the blocks to try on an architecture such as 90."""
    latest = max(one for one in _BLOCKS if one <= max(architecture, min(_BLOCKS)))
    return [Blocks(*one) for one in _BLOCKS[latest][direction]]
