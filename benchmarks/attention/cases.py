"""Candidates of the sweep: shapes of training, and passes of our kernel.

A pass is (queries, warps, stages) and, where backward has several, parts of the keys. None of them
spills registers on its architecture: `tests.aot` compiles each.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch
from torch import Tensor

from fastimae.kernels._attention_choice import Pass, rounded

Direction = Literal["forward", "backward"]


@dataclasses.dataclass(frozen=True)
class AttentionShape:
    """Attention of a model in training, with a batch whose qkv is larger than a GPU's cache."""

    tokens: int
    head_dim: int
    heads: int
    batch: int

    def __str__(self) -> str:
        return f"N={self.tokens} d={self.head_dim}"

    def inputs(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Draw qkv [B, N, 3, h, d] and the gradient of the output [B, N, h * d], in bf16."""
        new = {"dtype": torch.bfloat16, "device": device}
        rows = self.batch, self.tokens
        qkv = torch.randn(*rows, 3, self.heads, self.head_dim, **new)
        return qkv, torch.randn(*rows, self.heads * self.head_dim, **new)


# By value: encoder and decoder of ViT-B and L/16, ViT-Ti/4 of CIFAR-10, ViT-H/14; then the rest.
SHAPES = (
    AttentionShape(50, 64, 12, 512),
    AttentionShape(197, 32, 16, 256),
    AttentionShape(65, 64, 3, 2048),
    AttentionShape(65, 80, 16, 256),
    AttentionShape(257, 32, 16, 256),
    AttentionShape(197, 64, 12, 256),
    AttentionShape(785, 32, 16, 64),
    AttentionShape(785, 64, 12, 64),
    AttentionShape(65, 32, 16, 512),
    AttentionShape(50, 32, 16, 1024),
    AttentionShape(50, 80, 16, 512),
    AttentionShape(257, 64, 16, 128),
    AttentionShape(257, 80, 16, 128),
    AttentionShape(197, 80, 16, 128),
    AttentionShape(785, 80, 16, 32),
)
SMOKE_SHAPES = (
    AttentionShape(50, 32, 2, 2),
    AttentionShape(65, 64, 1, 1),
    AttentionShape(257, 32, 1, 1),
)

# Passes to try, by keys and columns of the tile. The first of each was estimated, not measured.
_SHORT = {
    (64, 32): ((64, 4, 1), (64, 8, 1), (64, 4, 2), (32, 4, 1)),
    (64, 64): ((64, 4, 1), (64, 8, 1), (64, 4, 2), (32, 4, 1)),
    (64, 128): ((64, 8, 1), (64, 4, 1), (64, 8, 2), (32, 8, 1)),
}
_PASSES = {
    "forward": {
        **_SHORT,
        (128, 32): ((64, 4, 1), (64, 4, 2), (64, 8, 1), (32, 4, 1), (128, 8, 1)),
        (128, 64): ((64, 4, 1), (64, 4, 2), (64, 8, 1), (32, 4, 1), (128, 8, 1)),
        (256, 32): ((64, 4, 2), (64, 4, 1), (64, 4, 3), (128, 8, 2), (64, 8, 1), (32, 4, 2)),
    },
    "backward": {
        **_SHORT,
        (128, 32): (
            *((32, 4, 1, 2), (32, 4, 2, 2), (64, 4, 1, 2), (32, 8, 1, 2)),
            *((32, 4, 1), (32, 8, 1), (64, 8, 1)),
        ),
        (128, 64): (
            *((32, 8, 1, 2), (32, 4, 1, 2), (32, 4, 2, 2), (64, 4, 1, 2)),
            *((32, 8, 1), (32, 4, 1), (64, 8, 1)),
        ),
        (256, 32): (
            *((32, 4, 2, 2), (32, 4, 1, 2), (64, 4, 1, 2), (32, 8, 1, 2), (64, 4, 1, 4)),
            *((32, 8, 1), (64, 8, 2), (64, 8, 1)),
        ),
    },
}
# Passes that spill registers with Triton 3.6 or 3.8, by architecture and direction.
_SPILLED = {
    (80, "forward"): {(256, 32): {(32, 4, 2)}},
    (80, "backward"): {
        (64, 32): {(32, 4, 1), (64, 4, 1)},
        (64, 64): {(64, 4, 1), (64, 4, 2)},
        (64, 128): {(64, 4, 1)},
        (128, 32): {(32, 8, 1)},
        (128, 64): {(64, 4, 1, 2)},
        (256, 32): {(64, 4, 1, 2), (64, 4, 1, 4), (64, 8, 2)},
    },
    (90, "forward"): {(64, 64): {(32, 4, 1)}},
    (90, "backward"): {(64, 128): {(64, 4, 1)}},
    (100, "forward"): {(64, 32): {(32, 4, 1)}},
    (100, "backward"): {(64, 128): {(64, 8, 1)}, (256, 32): {(64, 8, 1), (64, 8, 2)}},
}


def passes(shape: AttentionShape, direction: Direction, architecture: int) -> list[Pass]:
    """List the passes to try on an architecture such as 90; none where a tile does not fit."""
    tile = rounded(shape.tokens, shape.head_dim)
    spilled = _SPILLED.get((architecture, direction), {}).get(tile, ())
    return [Pass(*one) for one in _PASSES[direction].get(tile, ()) if one not in spilled]
