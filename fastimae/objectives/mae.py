"""MAE: masked reconstruction of clean images (He et al., 2021).

B = batch, H, W, C = image rows, columns, channels, L = patches of an image, K = visible patches,
N = K + class tokens, M = masked patches, V = values of a patch, E = decoder width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fastimae.kernels import Mask
from fastimae.models import MaskedAutoencoder
from fastimae.models.flops import training_flops
from fastimae.objectives.base import Models, Objective
from fastimae.objectives.batches import check_batch
from fastimae.objectives.boundary import check_boundary
from fastimae.objectives.masked_share import say_masked_share
from fastimae.objectives.masks import draw_mask, patches_seen
from fastimae.objectives.pictures import caption, paste, predicted_images
from fastimae.objectives.pixels import Pixels
from fastimae.objectives.predicted import draw_predicted, patches_predicted
from fastimae.objectives.settings import MAESettings, PixelSettings

if TYPE_CHECKING:
    from fastimae.loaders.base import Batch


class MAE(Objective):
    """Loss of MAE on a batch of images (MAE, section 3)."""

    Settings, title = MAESettings, "MAE"

    def __init__(
        self,
        student: MaskedAutoencoder,
        *,
        mask_ratio: float = MAESettings.mask_ratio,
        mask_unit: int = 1,
        predict_ratio: float | None = MAESettings.predict_ratio,
        ignore_boundary: int = MAESettings.ignore_boundary,
        pixels: PixelSettings | None = None,
    ) -> None:
        """Keep the model to train, `student`, and how to mask.

        mask_ratio: share of patches that are masked; 0: none, and the loss is that of all patches,
        an autoencoder's. mask_unit: side, in patches, of the squares that are masked as a whole.
        predict_ratio: share of patches that are predicted; None: all that are masked.
        ignore_boundary: see `masked_l2`. pixels: what changes images first; None: nothing. Raises
        ValueError if no such mask can be drawn, or if it would leave no pixel to reconstruct.
        """
        super().__init__()
        self.student, self.pixels = student, Pixels(student, pixels)
        self.mask_ratio, self.mask_unit = mask_ratio, mask_unit
        self.predict_ratio = predict_ratio
        _ = self.predicted  # raises if no such patches can be drawn
        self.ignore_boundary = ignore_boundary
        check_boundary(student, mask_ratio, mask_unit, ignore_boundary)

    @classmethod
    def build(cls, settings: MAESettings, models: Models) -> MAE:
        student = models.student()
        unit = settings.mask_unit(student.patch_size)
        say_masked_share(student, settings)
        return cls(student, mask_unit=unit, pixels=settings, **settings.taken_by(MAE.__init__))

    @property
    def visible(self) -> int:
        """K, the patches of an image that stay visible."""
        return patches_seen(self.student, self.mask_ratio, self.mask_unit)

    @property
    def predicted(self) -> int:
        """The patches of an image that are predicted."""
        return patches_predicted(self.student, self.visible, self.predict_ratio)

    def draw_mask(self, key: Tensor) -> Mask:
        """Draw the mask of each sample, a function of its key, int64 [B]."""
        return draw_mask(self.student, key, self.mask_ratio, self.mask_unit)

    def forward(self, batch: Batch, mask: Mask | None = None) -> dict[str, Tensor]:
        """Return {"loss": fp32 scalar} of a `fastimae.loaders.Batch`.

        Raises ValueError if the batch or the mask does not fit the student.
        """
        check_batch(self.student, batch, mask)
        batch, mask = self.pixels(batch), mask or self.draw_mask(batch.key)
        target = torch.arange(len(batch.images), device=batch.images.device)
        rows = draw_predicted(mask, batch.key, self.predicted) if self.mask_ratio else None
        pred_BMV = self._predict(batch, mask, rows)
        ids = rows.ids_masked if rows else mask.ids_keep
        loss = self.student.reconstruction_loss(
            pred_BMV, batch.images, target, ids, ignore_boundary=self.ignore_boundary
        )
        return {"loss": loss}

    def train_flops(self) -> int:
        """Count the operations per image, forward and backward: see `fastimae.models.flops`."""
        return training_flops(self.student, self.visible, predicted=self.predicted)

    @property
    def picture_note(self) -> str:
        note = "The reconstruction keeps visible patches unchanged."
        if not self.mask_ratio:
            note = "Nothing is masked: the reconstruction is what the model makes of all it sees."
        return caption(self.student, self.mask_ratio, note)

    @torch.no_grad()
    def reconstruct(self, batch: Batch) -> dict[str, Tensor]:
        """Draw pictures, by title, [B, H, W, C] each; see `picture_note`."""
        student = self.student
        check_batch(student, batch)
        batch, mask = self.pixels(batch), self.draw_mask(batch.key)
        images, pred_BLV = batch.images, self._predict(batch, mask)
        predicted = predicted_images(student, pred_BLV, images)
        return {
            "input": images,
            "masked": self.pixels.picture(student, batch, mask),
            "reconstruction": (
                paste(student, images, predicted, mask) if self.mask_ratio else predicted
            ),
        }

    def _predict(self, batch: Batch, mask: Mask, rows: Mask | None = None) -> Tensor:
        """Return what the decoder makes of all patches, or of those that rows hides."""
        student = self.student
        patches_BKV = self.pixels.visible_patches(student, batch, mask)
        latent = student.encode_for_decoder(patches_BKV, mask.ids_keep, batch.key)
        (head_BNE,) = student.split(latent)
        return student.decode(head_BNE, mask, rows=rows)
