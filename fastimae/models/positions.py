"""Positions of a model for images of another size than it was made for.

L = patches of an image, N = tokens (class tokens, then L patches), D = width.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from fastimae.models.vit import sincos_positions

Grid = tuple[int, int]
"""Patches: rows, columns."""

EXACT = 0.01
"""Positions are sines and cosines that were never trained if they differ by less, relative to the
norm: a bfloat16 differs by 0.002."""


def at_grid(
    positions_1ND: Tensor, before: Grid, grid: Grid
) -> tuple[Tensor, Literal["made", "resized"]]:
    """Return positions for another grid of patches, and how they came about.

    Sines and cosines (MAE, appendix A.1) are made anew, as by a model of that size. Others, which
    were trained, are resized as timm does, bicubic and antialiased. Those of class tokens stay.
    """
    tokens, width = positions_1ND.shape[1] - before[0] * before[1], positions_1ND.shape[-1]
    first_1TD, patches_1LD = positions_1ND.tensor_split([tokens], 1)
    if positions_1ND.is_meta:
        made_1LD = patches_1LD.new_empty(1, grid[0] * grid[1], width)
        return torch.cat([first_1TD, made_1LD], 1), "made"
    for shift in (0, width // 2) if width % 4 == 0 else ():  # MoCo v3 has rows first, not columns
        same, made = (sincos_positions(width, g, 0).roll(shift, -1) for g in (before, grid))
        if (patches_1LD.float().cpu() - same).norm() < EXACT * same.norm():
            return torch.cat([first_1TD, made.to(patches_1LD)], 1), "made"
    return resized(positions_1ND, before, grid), "resized"


def resized(positions_1ND: Tensor, before: Grid, grid: Grid) -> Tensor:
    """Return positions for another grid of patches, [1, N, D], resized as timm does.

    Bicubic and antialiased, in fp32; those of class tokens stay. Gradients reach the given ones.
    """
    if before == grid:
        return positions_1ND
    patches = before[0] * before[1]
    first_1TD, patches_1LD = positions_1ND.tensor_split([positions_1ND.shape[1] - patches], 1)
    map_1DHW = patches_1LD.float().mT.unflatten(-1, before)
    map_1DHW = F.interpolate(map_1DHW, grid, mode="bicubic", antialias=True)
    return torch.cat([first_1TD, map_1DHW.flatten(2).mT.to(patches_1LD)], 1)
