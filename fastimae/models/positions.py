"""Positions of a model for images of another size than it was made for.

L = patches of an image, N = tokens (class tokens, then L patches), D = width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastimae.models.vit import sincos_positions
from fastimae.settings import ConfigError

SINCOS_DISTANCE = 0.1
"""Positions are MAE's sines and cosines if they differ by less, relative to the norm."""


def at_grid(positions: Tensor, made: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Return positions [1, N, D], made for patches `made` (down, across), for those of `grid`.

    Sines and cosines (MAE, appendix A.1) are made anew, as by a model of that size. Others, which
    another project's model has learned, are resized as timm does, bicubic and antialiased. Those of
    class tokens stay. Raises ConfigError if that needs timm, which is not installed.
    """
    classes = positions.shape[1] - made[0] * made[1]
    own_1LD, width = positions[:, classes:], positions.shape[-1]
    if positions.is_meta:
        patches = own_1LD.new_empty(1, grid[0] * grid[1], width)
    elif _are_sincos(own_1LD, made):
        patches = sincos_positions(width, grid)[:, 1:].to(own_1LD)
    else:
        patches = _resized(own_1LD, made, grid)
    return torch.cat([positions[:, :classes], patches], dim=1)


def _are_sincos(positions: Tensor, grid: tuple[int, int]) -> bool:
    table = sincos_positions(positions.shape[-1], grid)[:, 1:]
    return bool((positions.float().cpu() - table).norm() < SINCOS_DISTANCE * table.norm())


def _resized(positions: Tensor, made: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    try:
        from timm.layers import resample_abs_pos_embed
    except ImportError as error:
        raise ConfigError(
            "the model's positions are learned, and timm, which resizes them, is not installed: "
            "pip install 'fastimae[eval]'"
        ) from error
    return resample_abs_pos_embed(
        positions, new_size=list(grid), old_size=list(made), num_prefix_tokens=0
    )
