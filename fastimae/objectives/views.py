"""Two views of an image by masks: T1 and T2 of the occlusion-invariance paper (section 2).

B = batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastimae.kernels import Mask, random_masking
from fastimae.kernels.random_masking import philox
from fastimae.models import MaskedAutoencoder
from fastimae.models.forward_features import all_visible
from fastimae.objectives.masks import draw_mask, patches_seen
from fastimae.objectives.settings import ViewSettings

VIEW_STREAM = 6
"""Philox stream of the second view's own mask: see `reference.MIXING_STREAM`."""


class Views:
    """Draws the masks of both views, as `ViewSettings` says."""

    def __init__(self, student: MaskedAutoencoder, settings: ViewSettings) -> None:
        """Raise ValueError if no such masks can be drawn for the student's images.

        A mask ratio of 0 hides nothing, in both views.
        """
        self.student, self.settings = student, settings
        self.unit = settings.mask_unit(student.patch_size)
        self.second = settings.view if settings.mask_ratio else "full"
        first = patches_seen(student, settings.mask_ratio, self.unit)
        patches = student.grid[0] * student.grid[1]
        self.visible = first, patches
        """Patches that are visible in each view."""
        if self.second == "complement":
            self.visible = first, patches - first
        elif self.second == "independent":
            self.visible = first, patches_seen(student, settings.view_mask_ratio, self.unit)

    def __call__(self, key: Tensor) -> tuple[Mask, Mask]:
        """Draw the masks of the first and the second view, a function of each key, int64 [B]."""
        settings, student = self.settings, self.student
        first = draw_mask(student, key, settings.mask_ratio, self.unit)
        if self.second == "complement":
            return first, first.complement()
        if self.second == "independent":
            own = _other_key(key)
            return first, random_masking(own, student.grid, settings.view_mask_ratio, self.unit)
        return first, all_visible(student, key)


def _other_key(key: Tensor) -> Tensor:
    """Return keys of masks that are independent of those of `key`, int64 [B]."""
    low, high, *_ = philox(key, torch.zeros_like(key), VIEW_STREAM)
    return high << 32 | low
