"""R-MAE: MAE as a siamese objective, relaxed (Kong & Zhang, 2022, section 2, equation 8).

B = batch, H, W, C = image rows, columns, channels, K = visible patches of a view, M = patches that
the first view hides, V = values of a patch, E = decoder width, N = K + class tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fastimae.kernels import Mask, pair_l2, random_masking
from fastimae.kernels.random_masking import visible_patches
from fastimae.models import MaskedAutoencoder
from fastimae.models.flops import training_flops
from fastimae.objectives.base import Models, Objective
from fastimae.objectives.batches import check_batch
from fastimae.objectives.masked_share import say_masked_shares
from fastimae.objectives.pictures import caption, paste, predicted_images
from fastimae.objectives.pixels import Pixels
from fastimae.objectives.predicted import draw_predicted, patches_predicted
from fastimae.objectives.second_view import SecondView, second_key
from fastimae.objectives.settings import PixelSettings, RMAESettings, SecondViewKind

if TYPE_CHECKING:
    from fastimae.loaders.base import Batch


class RMAE(Objective):
    """Loss of R-MAE on a batch of images (paper, equation 8, with phi = phi').

    The distance is between what the decoder makes of two views of an image (equation 5); the
    constraint is that the second view is reconstructed, without which any constant would do. Both
    are means over the patches that the first view hides and the second one shows.
    """

    Settings, title = RMAESettings, "R-MAE"

    def __init__(
        self,
        student: MaskedAutoencoder,
        *,
        mask_ratio: float = RMAESettings.mask_ratio,
        mask_unit: int = 1,
        second_view: SecondViewKind = RMAESettings.second_view,
        second_mask_ratio: float = RMAESettings.second_mask_ratio,
        predict_ratio: float | None = RMAESettings.predict_ratio,
        constraint_weight: float = RMAESettings.constraint_weight,
        pixels: PixelSettings | None = None,
    ) -> None:
        """Keep the model to train, `student`, and how to mask.

        mask_ratio: share of patches that the first view hides. mask_unit: side, in patches, of the
        squares that are masked as a whole. second_view: "complement", what the first view hides
        (equation 6); "independent", another mask, of second_mask_ratio (the dagger of table 1);
        "full", the whole image (its double dagger). predict_ratio: share of patches, of those that
        the first view hides, that are predicted; None: all. constraint_weight: lambda. pixels: what
        changes images first; None: nothing. Raises ValueError if no such mask can be drawn.
        """
        super().__init__()
        self.student, self.pixels = student, Pixels(student, pixels)
        self.mask_ratio, self.mask_unit = mask_ratio, mask_unit
        self.second = SecondView(
            kind=second_view, mask_ratio=second_mask_ratio, mask_unit=mask_unit
        )
        self.constraint_weight = constraint_weight
        self.predict_ratio = predict_ratio
        _ = self.visible, self.predicted  # raises if no such patches can be drawn

    @classmethod
    def build(cls, settings: RMAESettings, models: Models) -> RMAE:
        student = models.student()
        say_masked_shares(student, settings)
        unit = settings.mask_unit(student.patch_size)
        return cls(student, mask_unit=unit, pixels=settings, **settings.taken_by(RMAE.__init__))

    @property
    def visible(self) -> tuple[int, int]:
        """The patches that each view of an image shows."""
        first = visible_patches(self.student.grid, self.mask_ratio, self.mask_unit)
        return first, self.second.patches_seen(self.student, first)

    @property
    def predicted(self) -> int:
        """The patches of an image that are predicted from each view."""
        return patches_predicted(self.student, self.visible[0], self.predict_ratio)

    def draw_mask(self, key: Tensor) -> Mask:
        """Draw the mask of each sample's first view, a function of its key, int64 [B]."""
        return random_masking(key, self.student.grid, self.mask_ratio, self.mask_unit)

    def forward(self, batch: Batch, mask: Mask | None = None) -> dict[str, Tensor]:
        """Return the loss of a `fastimae.loaders.Batch`, and its parts, as fp32 scalars.

        mask: of the first view; drawn if not given. Returns "loss", "distance" and "constraint",
        loss = distance + constraint_weight * constraint; gradients pass through both views. Raises
        ValueError if the batch or the mask does not fit the student.
        """
        check_batch(self.student, batch, mask)
        batch, first = self.pixels(batch), mask or self.draw_mask(batch.key)
        second = self.second.draw_mask(self.student, batch.key, first)
        rows = draw_predicted(first, batch.key, self.predicted)
        one_BMV, other_BMV = (
            self._predict(batch, each, view, rows) for view, each in enumerate((first, second))
        )
        kept = self.second.shown(rows, second)
        target = torch.arange(len(batch.images), device=batch.images.device)
        distance = pair_l2(one_BMV, other_BMV, kept=kept)
        constraint = self.student.reconstruction_loss(
            other_BMV, batch.images, target, rows.ids_masked, kept=kept
        )
        loss = distance + self.constraint_weight * constraint
        return {"loss": loss, "distance": distance, "constraint": constraint}

    def train_flops(self) -> int:
        """Count the operations per image, forward and backward: see `fastimae.models.flops`."""
        return sum(
            training_flops(self.student, visible, predicted=self.predicted)
            for visible in self.visible
        )

    @property
    def picture_note(self) -> str:
        note = "Both reconstructions keep the patches that the first view shows."
        return caption(self.student, self.mask_ratio, note)

    @torch.no_grad()
    def reconstruct(self, batch: Batch) -> dict[str, Tensor]:
        """Draw pictures, by title, [B, H, W, C] each; see `picture_note`."""
        student = self.student
        check_batch(student, batch)
        batch, first = self.pixels(batch), self.draw_mask(batch.key)
        second = self.second.draw_mask(student, batch.key, first)
        pictures = {"input": batch.images}
        for view, (mask, seen, title) in enumerate(
            ((first, "masked", "reconstruction"), (second, "second view", "from the second view"))
        ):
            predicted = predicted_images(student, self._predict(batch, mask, view), batch.images)
            pictures[seen] = self.pixels.picture(student, batch, mask, view=view)
            pictures[title] = paste(student, batch.images, predicted, first)
        return pictures

    def _predict(self, batch: Batch, mask: Mask, view: int, rows: Mask | None = None) -> Tensor:
        """Return what the decoder makes of a view, of all patches or of those that rows hides."""
        student = self.student
        patches_BKV = self.pixels.visible_patches(student, batch, mask, view=view)
        key = second_key(batch.key) if view else batch.key
        (head_BNE,) = student.split(student.encode_for_decoder(patches_BKV, mask.ids_keep, key))
        return student.decode(head_BNE, mask, rows=rows)
