"""What changes the pixels of a batch before an objective sees them, on the batch's device.

An objective takes these options with settings that derive from `PixelSettings` (`JitterSettings`:
only those on whole images), `self.pixels = Pixels(student, settings)` in its `__init__`, to which
its `build` passes the settings, and `batch = self.pixels(batch)` first in its loss and pictures.
If visible patches can differ from their targets, it reads them with
`visible_patches(..., jitter=self.pixels.of_visible(batch.key))`.

B = batch.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from torch import Tensor, nn

from fastimae.kernels.color_jitter import color_jitter, jitter_factors
from fastimae.models import MaskedAutoencoder
from fastimae.objectives.batches import check_partners
from fastimae.objectives.blur import blur, blur_sigma
from fastimae.objectives.cutmix import CutMix
from fastimae.objectives.settings import JitterSettings, PixelSettings
from fastimae.settings import RGB, ConfigError

if TYPE_CHECKING:
    from fastimae.loaders.base import Batch


class Pixels(nn.Module):
    """The pixel options of an objective, which calls it first: see `PixelSettings`."""

    def __init__(self, student: MaskedAutoencoder, settings: JitterSettings | None = None) -> None:
        """Keep the options, those of `PixelSettings` that `settings` has; None: no change.

        Raises ConfigError for images that have no colours to change.
        """
        super().__init__()
        self.settings = PixelSettings.gather(settings) if settings else PixelSettings()
        self.cutmix = CutMix(self.settings.cutmix) if self.settings.cutmix else None
        if self.settings.color_jitter and student.in_chans != RGB:
            raise ConfigError(
                f"--color_jitter changes the colours of images with {RGB} channels, and these "
                f"have --in_chans {student.in_chans}: set it to 0"
            )

    @property
    def visible_only(self) -> bool:
        """Whether visible patches have other colours than the images of the batch, the targets."""
        return self.settings.color_jitter > 0 and self.settings.color_jitter_on == "visible"

    def forward(self, batch: Batch) -> Batch:
        """Return the batch that the objective is to see, targets included."""
        images, key, strength = batch.images, batch.key, self.settings.color_jitter
        if self.cutmix is not None:
            check_partners(batch)
            images = self.cutmix(images, batch.partner, key)
        if strength and not self.visible_only:
            images = color_jitter(images, jitter_factors(key, strength))
        if self.settings.blur:
            images = blur(images, blur_sigma(key, self.settings.blur))
        return dataclasses.replace(batch, images=images)

    def of_visible(self, key: Tensor, *, view: int = 0) -> Tensor | None:
        """Return the jitter of visible patches, for `visible_patches`: fp32 [B, 6], or None.

        view: views of an image, such as the two of a siamese objective, are jittered independently.
        """
        if not self.visible_only:
            return None
        return jitter_factors(key, self.settings.color_jitter, view=view)
