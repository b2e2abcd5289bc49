"""What changes the pixels of a batch before an objective sees them, on the batch's device.

B = batch.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from torch import Tensor

from fastimae.kernels.color_jitter import color_jitter, jitter_factors
from fastimae.objectives.settings import PixelSettings

if TYPE_CHECKING:
    from fastimae.loaders.base import Batch


class Pixels:
    """The pixel options of an objective: see `PixelSettings`."""

    def __init__(self, settings: PixelSettings) -> None:
        self.settings = settings

    def __call__(self, batch: Batch) -> Batch:
        """Return the batch that the objective is to see, targets included."""
        jitter, images = self.settings, batch.images
        if jitter.color_jitter and jitter.color_jitter_on == "image":
            images = color_jitter(images, jitter_factors(batch.key, jitter.color_jitter))
        return dataclasses.replace(batch, images=images)

    def of_visible(self, key: Tensor, *, view: int = 0) -> Tensor | None:
        """Return the jitter of visible patches, for `visible_patches`: fp32 [B, 6], or None.

        view: views of an image, such as the two of a siamese objective, are jittered independently.
        """
        jitter = self.settings
        if not jitter.color_jitter or jitter.color_jitter_on == "image":
            return None
        return jitter_factors(key, jitter.color_jitter, view=view)
