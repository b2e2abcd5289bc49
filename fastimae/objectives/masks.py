"""Masks of objectives that may also mask nothing, with --mask_ratio 0.

B = batch.
"""

from __future__ import annotations

from torch import Tensor

from fastimae.kernels import Mask, random_masking
from fastimae.kernels.random_masking import visible_patches
from fastimae.models import MaskedAutoencoder
from fastimae.models.forward_features import all_visible


def patches_seen(student: MaskedAutoencoder, mask_ratio: float, mask_unit: int) -> int:
    """Return how many patches of an image stay visible; all, where nothing is masked.

    Raises ValueError if no such mask can be drawn.
    """
    if not mask_ratio:
        return student.grid[0] * student.grid[1]
    return visible_patches(student.grid, mask_ratio, mask_unit)


def draw_mask(student: MaskedAutoencoder, key: Tensor, mask_ratio: float, mask_unit: int) -> Mask:
    """Draw the mask of each sample, a function of its key, int64 [B]; 0 hides nothing."""
    if not mask_ratio:
        return all_visible(student, key)
    return random_masking(key, student.grid, mask_ratio, mask_unit)
