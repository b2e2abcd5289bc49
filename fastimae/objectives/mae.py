"""Masked reconstruction of clean images (He et al., 2021)."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fastimae.kernels import Mask, random_masking
from fastimae.kernels.random_masking import visible_patches
from fastimae.models import MaskedAutoencoder
from fastimae.models.flops import training_flops
from fastimae.models.mae import MASK_RATIO
from fastimae.objectives.base import Models, Objective
from fastimae.objectives.batches import check_batch
from fastimae.objectives.panels import caption, mask_out, paste, predicted_images
from fastimae.settings import ConfigError, InnerShare, PositiveInt, Settings

if TYPE_CHECKING:
    from fastimae.loaders.base import Batch


@dataclasses.dataclass(kw_only=True)
class MaskSettings(Settings):
    """Of each image, how much is hidden."""

    mask_ratio: InnerShare = MASK_RATIO
    """Share of patches that is masked."""
    mask_patch_size: PositiveInt | None = None
    """Side, in pixels, of the square that is masked as one. None: the ViT's patch."""

    def mask_unit(self, patch_size: int) -> int:
        """The side of that square, in patches. Raises ConfigError where it is no whole number."""
        unit, rest = divmod(self.mask_patch_size or patch_size, patch_size)
        if rest or unit < 1:
            raise ConfigError(
                f"--mask_patch_size {self.mask_patch_size} is not a multiple of the patch size "
                f"{patch_size}"
            )
        return unit


class MAE(Objective):
    """Loss of MAE on a batch of uint8 images.

    student: the model to train. mask_ratio: share of patches masked. mask_unit: side, in patches,
    of the square that is masked as one. Raises ValueError where no such mask can be drawn.
    """

    Settings, title = MaskSettings, "MAE"

    def __init__(
        self,
        student: MaskedAutoencoder,
        *,
        mask_ratio: float = MaskSettings.mask_ratio,
        mask_unit: int = 1,
    ) -> None:
        super().__init__()
        self.student = student
        self.mask_ratio, self.mask_unit = mask_ratio, mask_unit
        self.visible = visible_patches(student.grid, mask_ratio, mask_unit)

    @classmethod
    def build(cls, settings: MaskSettings, models: Models) -> MAE:
        student = models.student()
        unit = settings.mask_unit(student.patch_size)
        return cls(student, mask_ratio=settings.mask_ratio, mask_unit=unit)

    def draw_mask(self, key: Tensor) -> Mask:
        """Mask of each sample, a function of its key int64 [B]."""
        return random_masking(key, self.student.grid, self.mask_ratio, self.mask_unit)

    def forward(self, batch: Batch, mask: Mask | None = None) -> dict[str, Tensor]:
        """batch: `fastimae.loaders.Batch`. Returns {"loss": fp32 scalar}. Raises ValueError where
        the batch or the mask does not fit the student."""
        check_batch(self.student, batch, mask)
        mask = mask or self.draw_mask(batch.key)
        own = torch.arange(len(batch.images), device=batch.images.device)
        pred = self._predict(batch.images, mask, masked_only=True)
        loss = self.student.reconstruction_loss(pred, batch.images, own, mask.ids_masked)
        return {"loss": loss}

    def train_flops(self) -> int:
        """Operations that an image takes, forward and backward: see `fastimae.models.flops`."""
        return training_flops(self.student, self.visible)

    @property
    def picture_note(self) -> str:
        shown = "The reconstruction shows visible patches as they were."
        return caption(self.student, self.mask_ratio, shown)

    @torch.no_grad()
    def reconstruct(self, batch: Batch) -> dict[str, Tensor]:
        """Pictures to look at, by title, uint8 [B, H, W, C] each; see `picture_note`."""
        student, images = self.student, batch.images
        check_batch(student, batch)
        mask = self.draw_mask(batch.key)
        pred = self._predict(images, mask, masked_only=False)
        return {
            "input": images,
            "masked": mask_out(student, images, mask),
            "reconstruction": paste(student, images, predicted_images(student, pred, images), mask),
        }

    def _predict(self, images: Tensor, mask: Mask, masked_only: bool) -> Tensor:
        student = self.student
        (patches,) = student.visible_patches(images, mask)
        (head,) = student.split(student.encode(patches, mask.ids_keep))
        return student.decode(head, mask, masked_only)
