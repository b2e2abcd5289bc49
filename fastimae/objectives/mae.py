"""MAE: masked reconstruction of clean images (He et al., 2021).

B = batch, H, W, C = image rows, columns, channels, L = patches of an image, K = visible patches,
N = 1 + K tokens, M = masked patches, V = values of a patch, E = decoder width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fastimae.kernels import Mask, random_masking
from fastimae.kernels.random_masking import visible_patches
from fastimae.models import MaskedAutoencoder
from fastimae.models.flops import training_flops
from fastimae.objectives.base import Models, Objective
from fastimae.objectives.batches import check_batch
from fastimae.objectives.boundary import check_boundary
from fastimae.objectives.masked_share import say_masked_share
from fastimae.objectives.pictures import caption, mask_out, paste, predicted_images
from fastimae.objectives.settings import MaskSettings, ReconstructionSettings

if TYPE_CHECKING:
    from fastimae.loaders.base import Batch


class MAE(Objective):
    """Loss of MAE on a batch of uint8 images (MAE, section 3)."""

    Settings, title = ReconstructionSettings, "MAE"

    def __init__(
        self,
        student: MaskedAutoencoder,
        *,
        mask_ratio: float = ReconstructionSettings.mask_ratio,
        mask_unit: int = 1,
        ignore_boundary: int = ReconstructionSettings.ignore_boundary,
    ) -> None:
        """Keep the model to train, `student`, and how to mask.

        mask_ratio: share of patches that are masked. mask_unit: side, in patches, of the squares
        that are masked as a whole. ignore_boundary: see `masked_l2`. Raises ValueError if no such
        mask can be drawn, or if it would leave no pixel to reconstruct.
        """
        super().__init__()
        self.student = student
        self.mask_ratio, self.mask_unit = mask_ratio, mask_unit
        self.visible = visible_patches(student.grid, mask_ratio, mask_unit)
        self.ignore_boundary = ignore_boundary
        check_boundary(student, mask_ratio, mask_unit, ignore_boundary)

    @classmethod
    def build(cls, settings: MaskSettings, models: Models) -> MAE:
        student = models.student()
        unit = settings.mask_unit(student.patch_size)
        say_masked_share(student, settings)
        return cls(student, mask_unit=unit, **settings.taken_by(MAE.__init__))

    def draw_mask(self, key: Tensor) -> Mask:
        """Draw the mask of each sample, a function of its key, int64 [B]."""
        return random_masking(key, self.student.grid, self.mask_ratio, self.mask_unit)

    def forward(self, batch: Batch, mask: Mask | None = None) -> dict[str, Tensor]:
        """Return {"loss": fp32 scalar} of a `fastimae.loaders.Batch`.

        Raises ValueError if the batch or the mask does not fit the student.
        """
        check_batch(self.student, batch, mask)
        mask = mask or self.draw_mask(batch.key)
        target = torch.arange(len(batch.images), device=batch.images.device)
        pred_BMV = self._predict(batch.images, mask, masked_only=True)
        loss = self.student.reconstruction_loss(
            pred_BMV, batch.images, target, mask.ids_masked, ignore_boundary=self.ignore_boundary
        )
        return {"loss": loss}

    def train_flops(self) -> int:
        """Count the operations per image, forward and backward: see `fastimae.models.flops`."""
        return training_flops(self.student, self.visible)

    @property
    def picture_note(self) -> str:
        note = "The reconstruction keeps visible patches unchanged."
        return caption(self.student, self.mask_ratio, note)

    @torch.no_grad()
    def reconstruct(self, batch: Batch) -> dict[str, Tensor]:
        """Draw pictures, by title, uint8 [B, H, W, C] each; see `picture_note`."""
        student, images = self.student, batch.images
        check_batch(student, batch)
        mask = self.draw_mask(batch.key)
        pred_BLV = self._predict(images, mask, masked_only=False)
        predicted = predicted_images(student, pred_BLV, images)
        return {
            "input": images,
            "masked": mask_out(student, images, mask),
            "reconstruction": paste(student, images, predicted, mask),
        }

    def _predict(self, images: Tensor, mask: Mask, masked_only: bool) -> Tensor:
        student = self.student
        (patches_BKV,) = student.visible_patches(images, mask)
        (head_BNE,) = student.split(student.encode(patches_BKV, mask.ids_keep))
        return student.decode(head_BNE, mask, masked_only)
