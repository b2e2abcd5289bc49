"""What the sweep of `benchmarks.attention` tries: shapes of training, and passes of our kernels.

Passes are (queries, warps, stages). None of them spills registers on its architecture:
`benchmarks.aot` compiles each.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch
from torch import Tensor

from fastimae.kernels._attention_choice import Pass, rounded

Direction = Literal["forward", "backward"]


@dataclasses.dataclass(frozen=True)
class Shape:
    """Attention of a model in training; a batch whose qkv is larger than the cache of a GPU."""

    tokens: int
    head_dim: int
    heads: int
    batch: int

    def __str__(self) -> str:
        return f"N={self.tokens} d={self.head_dim}"

    def inputs(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """qkv [B, N, 3, h, d] and the gradient of the output [B, N, h * d], in bf16."""
        new = {"dtype": torch.bfloat16, "device": device}
        rows = self.batch, self.tokens
        qkv = torch.randn(*rows, 3, self.heads, self.head_dim, **new)
        return qkv, torch.randn(*rows, self.heads * self.head_dim, **new)


# By worth: encoder and decoder of ViT-B and L/16, ViT-Ti/4 of CIFAR-10, ViT-H/14; then the rest.
SHAPES = (
    Shape(50, 64, 12, 512),
    Shape(197, 32, 16, 256),
    Shape(65, 64, 3, 2048),
    Shape(65, 80, 16, 256),
    Shape(257, 32, 16, 256),
    Shape(197, 64, 12, 256),
    Shape(785, 32, 16, 64),
    Shape(785, 64, 12, 64),
    Shape(65, 32, 16, 512),
    Shape(50, 32, 16, 1024),
    Shape(50, 80, 16, 512),
    Shape(257, 64, 16, 128),
    Shape(257, 80, 16, 128),
    Shape(197, 80, 16, 128),
    Shape(785, 80, 16, 32),
)
SMOKE_SHAPES = (Shape(50, 32, 2, 2), Shape(65, 64, 1, 1), Shape(257, 32, 1, 1))

# What to try, by keys and columns of the tile.
_PASSES = {
    (64, 32): ((64, 4, 1), (64, 8, 1), (64, 4, 2), (32, 4, 1)),
    (64, 64): ((64, 4, 1), (64, 8, 1), (64, 4, 2), (32, 4, 1)),
    (64, 128): ((64, 8, 1), (64, 4, 1), (64, 8, 2), (32, 8, 1)),
    (128, 32): ((32, 4, 1), (32, 8, 1), (64, 4, 1), (64, 8, 1), (128, 8, 1)),
    (128, 64): ((32, 8, 1), (32, 8, 2), (64, 8, 1), (64, 8, 2), (128, 8, 1)),
    (256, 32): ((32, 8, 1), (64, 8, 2), (32, 8, 2), (32, 4, 1), (64, 8, 1), (64, 8, 3)),
}
# What spills registers with Triton 3.6, 3.8 or 3.9, by architecture and direction.
_SPILLED = {
    (80, "forward"): {(128, 32): {(32, 8, 1)}},
    (80, "backward"): {
        (64, 32): {(64, 4, 1)},
        (64, 128): {(64, 4, 1)},
        (128, 32): {(32, 8, 1), (128, 8, 1)},
        (128, 64): {(64, 8, 2), (128, 8, 1)},
        (256, 32): {(32, 4, 1), (64, 8, 1), (64, 8, 2), (64, 8, 3)},
    },
    (90, "backward"): {(64, 128): {(64, 4, 1)}, (256, 32): {(32, 4, 1)}},
    (100, "forward"): {(64, 32): {(32, 4, 1)}, (256, 32): {(64, 8, 2), (64, 8, 3)}},
    (100, "backward"): {(64, 128): {(64, 8, 1)}, (256, 32): {(64, 8, 1), (64, 8, 2), (64, 8, 3)}},
}


def passes(shape: Shape, direction: Direction, architecture: int) -> list[Pass]:
    """What to try on an architecture, such as 90; nothing where a tile does not fit."""
    tile = rounded(shape.tokens, shape.head_dim)
    spilled = _SPILLED.get((architecture, direction), {}).get(tile, ())
    return [Pass(*one) for one in _PASSES.get(tile, ()) if one not in spilled]
