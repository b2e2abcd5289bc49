"""What changes the pixels of a batch before an objective sees them, on the batch's device.

An objective takes these options with settings that derive from `PixelSettings` (`JitterSettings`:
only those on whole images), `self.pixels = Pixels(student, settings)` in its `__init__`, to which
its `build` passes the settings, and `batch = self.pixels(batch)` first in its loss and pictures.
With `PixelSettings`, visible patches can differ from their targets: it reads them with
`self.pixels.visible_patches(student, batch, mask)`, and draws them with `picture`.

B = batch, H, W, C = image rows, columns, channels, K = visible patches, V = values of a patch.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fastimae.kernels import Mask
from fastimae.kernels.color_jitter import color_jitter, jitter_factors
from fastimae.models import MaskedAutoencoder
from fastimae.objectives.batches import check_partners
from fastimae.objectives.blur import blur, blur_sigma
from fastimae.objectives.cutmix import CutMix
from fastimae.objectives.pictures import mask_out, seen_images
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
                f"have --in_chans {student.in_chans}: use --color_jitter 0"
            )

    @property
    def visible_only(self) -> bool:
        """Whether visible patches have other colours than the images of the batch, the targets."""
        return self.settings.color_jitter > 0 and self.settings.color_jitter_on == "visible"

    def forward(self, batch: Batch) -> Batch:
        """Return the batch that the objective is to see, targets included."""
        images, key, strength = batch.images, batch.key, self.settings.color_jitter
        if strength and images.dtype != torch.uint8:
            raise ConfigError(
                f"--color_jitter changes the colours of images of 8 bits, and these are "
                f"{str(images.dtype).removeprefix('torch.')}: use --color_jitter 0"
            )
        if self.cutmix is not None:
            check_partners(batch)
            images = self.cutmix(images, batch.partner, key)
        if strength and not self.visible_only:
            images = color_jitter(images, jitter_factors(key, strength))
        if self.settings.blur:
            images = blur(images, blur_sigma(key, self.settings.blur))
        return dataclasses.replace(batch, images=images)

    def visible_patches(
        self, student: MaskedAutoencoder, batch: Batch, mask: Mask, *, view: int = 0
    ) -> Tensor:
        """Return the visible patches of a batch from `forward`, as a model sees them: [B, K, V].

        view: views of an image, such as the two of a siamese objective, are jittered independently.
        """
        jitter = None
        if self.visible_only:
            jitter = jitter_factors(batch.key, self.settings.color_jitter, view=view)
        return student.visible_patches(batch.images, mask, jitter=jitter)[0]

    def picture(
        self, student: MaskedAutoencoder, batch: Batch, mask: Mask, *, view: int = 0
    ) -> Tensor:
        """Draw the visible patches, on gray: [B, H, W, C]. See `visible_patches`."""
        images = batch.images
        if self.visible_only:
            images = seen_images(
                student, self.visible_patches(student, batch, mask, view=view), mask
            )
        return mask_out(student, images, mask)
