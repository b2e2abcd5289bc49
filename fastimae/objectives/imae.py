"""i-MAE: reconstruct two images from their mixture, and match a teacher's latents of each.

B = mixtures, K = visible patches, E = width of a head's output. Mixture i is
s * x[i] + (1 - s) * x[partner[i]] with s <= 0.5: x[i] is subordinate, its partner dominant.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from torch import Tensor

from fastimae.kernels import Mask, latent_l2, random_masking
from fastimae.kernels.random_masking import visible_patches
from fastimae.log import log
from fastimae.models import MaskedAutoencoder
from fastimae.models.flops import latent_flops, training_flops
from fastimae.models.mae import HEAD_SPACE
from fastimae.objectives.base import Models, Objective, Teacher
from fastimae.objectives.batches import check_pairs
from fastimae.objectives.mae import MaskSettings
from fastimae.objectives.mixing import MixRatio, MixSettings
from fastimae.objectives.panels import (
    caption,
    covering_masks,
    mask_out,
    mix_images,
    paste,
    predicted_images,
)
from fastimae.objectives.teaching import TeacherSettings, check_teacher
from fastimae.settings import Count, PairSettings, Share, flag

if TYPE_CHECKING:
    from fastimae.loaders.base import Batch

BRANCHES = ("subordinate", "dominant")


@dataclasses.dataclass(kw_only=True)
class IMAESettings(TeacherSettings, PairSettings, MixSettings, MaskSettings):
    """What of a mixture is reconstructed, and what a teacher adds to that."""

    mix_group: Count = 32
    same_class_ratio: Annotated[Share | None, flag(aliases=["--same_prob"])] = None
    targets: Literal["both", "subordinate", "dominant"] = "both"
    """Which of the two images to reconstruct."""
    head_space: Literal["decoder", "encoder"] = HEAD_SPACE
    """Where the two heads and the distillation live."""


class IMAE(Objective):
    """Loss of i-MAE on a batch of uint8 images (paper, sections 3.1 to 3.3).

    student: a model with two heads. teacher: a frozen MAE with one head, or None for no
    distillation. mask_unit: see `MAE`. Others: see `IMAESettings`; for reciprocal_pairs the loader
    has to pair images so. Raises ValueError where models do not fit.
    """

    Settings, title, needs_partners = IMAESettings, "i-MAE", True

    def __init__(
        self,
        student: MaskedAutoencoder,
        teacher: MaskedAutoencoder | None = None,
        *,
        mix_beta: float = IMAESettings.mix_beta,
        mix_lambda: float | None = IMAESettings.mix_lambda,
        mix_per: Literal["batch", "sample"] = IMAESettings.mix_per,
        distill_weight: float = IMAESettings.distill_weight,
        targets: Literal["both", "subordinate", "dominant"] = IMAESettings.targets,
        teacher_view: Literal["clean", "mixed"] = IMAESettings.teacher_view,
        teacher_precision: Literal["auto", "fp8"] = IMAESettings.teacher_precision,
        mask_ratio: float = IMAESettings.mask_ratio,
        mask_unit: int = 1,
        reciprocal_pairs: bool = IMAESettings.reciprocal_pairs,
    ) -> None:
        super().__init__()
        if student.heads != 2:
            raise ValueError("i-MAE needs a student with two heads: create_model(name, heads=2)")
        self.student = student
        self.ratio = MixRatio(mix_beta=mix_beta, mix_lambda=mix_lambda, mix_per=mix_per)
        self.teacher = teacher
        if teacher is not None:
            check_teacher(student, teacher)
            teacher.requires_grad_(False).eval()
        self.distill_weight = distill_weight
        self.targets = BRANCHES if targets == "both" else (targets,)
        self.branches = tuple(BRANCHES.index(name) for name in self.targets)
        self.teacher_view, self.teacher_precision = teacher_view, teacher_precision
        self.mask_ratio, self.mask_unit = mask_ratio, mask_unit
        self.visible = visible_patches(student.grid, mask_ratio, mask_unit)
        self.reciprocal_pairs = reciprocal_pairs

    @classmethod
    def build(cls, settings: IMAESettings, models: Models) -> IMAE:
        student = models.student(heads=2, head_space=settings.head_space)
        unit = settings.mask_unit(student.patch_size)
        teacher = models.teacher(
            settings.teacher, student,
            name=settings.teach_model, num_heads=settings.teach_num_heads,
        )  # fmt: skip
        if teacher is None:
            log.info("no --teacher: i-MAE trains without distillation")
        return cls(student, teacher, mask_unit=unit, **settings.taken_by(cls.__init__))

    def teachers(self) -> dict[str, Teacher]:
        """See `Objective`: the MAE that is distilled never changes."""
        if self.teacher is None:
            return {}
        fixed = Teacher(
            module=self.teacher, precision=self.teacher_precision, output=self.teacher_latents
        )
        return {"teacher": fixed}

    def draw_mask(self, batch: Batch) -> Mask:
        """Mask of each mixture; partners share theirs where `reciprocal_pairs` is on."""
        key = batch.key
        if self.reciprocal_pairs:
            key = torch.minimum(key, key[batch.partner])
        return random_masking(key, self.student.grid, self.mask_ratio, self.mask_unit)

    def forward(
        self, batch: Batch, mask: Mask | None = None, alpha: Tensor | None = None
    ) -> dict[str, Tensor]:
        """batch: `fastimae.loaders.Batch`. alpha: float [B], weight of the subordinate image.

        Returns fp32 scalars: "loss", and for each target "recon_subordinate", "recon_dominant",
        "latent_subordinate", "latent_dominant" (the last two with a teacher), all plain means;
        loss = recon parts + distill_weight * latent parts. Raises ValueError where batch, mask or
        alpha do not fit the student.
        """
        check_pairs(self.student, batch, mask)
        mask = mask or self.draw_mask(batch)
        alpha = self.ratio(batch.key, batch.step_key) if alpha is None else alpha
        views = self._views(batch, mask, alpha)
        heads = self._heads(views[0], mask)
        recon = self._reconstruction(batch, mask, heads)
        parts = dict(zip((f"recon_{name}" for name in self.targets), recon, strict=True))
        loss = recon.sum()
        if self.teacher is not None:
            teacher = self._teacher_latents(batch, mask, views)
            latent = latent_l2(heads.flatten(0, 1), teacher, branches=len(self.branches))
            parts |= zip((f"latent_{name}" for name in self.targets), latent, strict=True)
            loss = loss + self.distill_weight * latent.sum()
        return {"loss": loss, **parts}

    def train_flops(self) -> int:
        """Operations that a mixture takes, forward and backward: see `fastimae.models.flops`."""
        count = len(self.branches)
        flops = training_flops(self.student, self.visible, count)
        if self.teacher is None:
            return flops
        once = self.reciprocal_pairs or self.teacher_view == "mixed"
        latent = latent_flops(self.teacher, self.visible, self.student.head_space)
        return flops + (1 if once else count) * latent

    @property
    def picture_note(self) -> str:
        shown = "Every patch is shown as predicted in a pass in which it was masked."
        return caption(self.student, self.mask_ratio, shown)

    @torch.no_grad()
    def reconstruct(self, batch: Batch) -> dict[str, Tensor]:
        """Pictures to look at, by title, uint8 [B, H, W, C] each; see `picture_note`."""
        student, images = self.student, batch.images
        check_pairs(student, batch)
        drawn = self.draw_mask(batch)
        alpha = self.ratio(batch.key, batch.step_key)
        mixture = mix_images(images, batch.partner, alpha)
        targets = (images, images[batch.partner])
        pictures = {
            "subordinate": images,
            "dominant": targets[1],
            "mixture": mixture,
            "masked": mask_out(student, mixture, drawn),
        }
        for mask in covering_masks(drawn):
            heads = self._heads(self._views(batch, mask, alpha)[0], mask)
            for branch, head in zip(self.branches, heads, strict=True):
                shown = predicted_images(student, student.decode(head, mask), targets[branch])
                title = f"{BRANCHES[branch]} reconstructed"
                pictures[title] = paste(student, pictures.get(title, shown), shown, mask)
        return pictures

    def teacher_latents(self, batch: Batch) -> Tensor:
        """What `forward` distils from the teacher, [n branches x B, 1 + K, E]."""
        check_pairs(self.student, batch)
        mask, alpha = self.draw_mask(batch), self.ratio(batch.key, batch.step_key)
        return self._teacher_latents(batch, mask, self._views(batch, mask, alpha))

    def _views(self, batch: Batch, mask: Mask, alpha: Tensor) -> tuple[Tensor, ...]:
        """Visible patches [B, K, P*P*C] of the mixtures; for a teacher also of the images and of
        their partners."""
        clean = self.teacher is not None and self.teacher_view == "clean"
        return self.student.visible_patches(
            batch.images, mask, partner=batch.partner, alpha=alpha, clean=clean
        )

    def _heads(self, mixed: Tensor, mask: Mask) -> Tensor:
        """Outputs of the heads that have a target, [n branches, B, 1 + K, E]."""
        heads = self.student.split(self.student.encode(mixed, mask.ids_keep))
        return heads[self.branches[0] : self.branches[-1] + 1]

    def _reconstruction(self, batch: Batch, mask: Mask, heads: Tensor) -> Tensor:
        """Losses of the branches, fp32 [n], which are decoded as one batch of n B."""
        count = len(self.branches)
        pred = self.student.decode(heads.flatten(0, 1), mask.repeat(count), masked_only=True)
        own = torch.arange(len(batch.images), device=batch.images.device)
        target = torch.cat([(own, batch.partner)[branch] for branch in self.branches])
        return self.student.reconstruction_loss(
            pred, batch.images, target, mask.ids_masked, branches=count
        )

    def _teacher_latents(self, batch: Batch, mask: Mask, views: tuple[Tensor, ...]) -> Tensor:
        """Latents [n B, 1 + K, E] of the frozen teacher for the images of the branches."""
        count = len(self.branches)
        if self.teacher_view == "mixed":
            return self._teacher_latent(views[0], mask).repeat(count, 1, 1)
        _, own, other = views
        if self.reciprocal_pairs:
            latent = self._teacher_latent(own, mask)
            both = latent, latent[batch.partner]
            return torch.cat([both[branch] for branch in self.branches])
        wanted = torch.cat([(own, other)[branch] for branch in self.branches])
        return self._teacher_latent(wanted, mask.repeat(count))

    def _teacher_latent(self, patches: Tensor, mask: Mask) -> Tensor:
        # torch.compile does not take inference mode, and needs it no more than no_grad.
        compiling = torch.compiler.is_compiling()
        with torch.no_grad() if compiling else torch.inference_mode():
            latent = self.teacher.encode(patches, mask.ids_keep)
            if self.student.head_space == "encoder":
                return latent
            return self.teacher.split(latent)[0]
