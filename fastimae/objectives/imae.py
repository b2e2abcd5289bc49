"""i-MAE: reconstruct two images from their mixture, and match a teacher's latents of each.

B = mixtures, H, W, C = image rows, columns, channels, K = visible patches, N = K + class tokens,
L = patches of an image, M = masked patches, V = values of a patch, E = width of a head's output,
n = branches. Mixture i is s * x[i] + (1 - s) * x[partner[i]] with s <= 0.5: x[i] is subordinate,
its partner dominant.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from fastimae.kernels import Mask, latent_l2, random_masking
from fastimae.kernels.random_masking import visible_patches
from fastimae.log import log
from fastimae.models import MaskedAutoencoder
from fastimae.models.flops import latent_flops, training_flops
from fastimae.objectives.base import Models, Objective, Teacher
from fastimae.objectives.batches import check_paired_batch
from fastimae.objectives.boundary import check_boundary
from fastimae.objectives.distillation import check_teacher
from fastimae.objectives.masked_share import say_masked_share
from fastimae.objectives.mixing import MixRatio
from fastimae.objectives.pictures import (
    caption,
    covering_masks,
    mask_out,
    mix_images,
    paste,
    predicted_images,
)
from fastimae.objectives.pixels import Pixels
from fastimae.objectives.predicted import draw_predicted, patches_predicted
from fastimae.objectives.settings import IMAESettings, JitterSettings
from fastimae.settings import ConfigError

if TYPE_CHECKING:
    from fastimae.loaders.base import Batch

BRANCHES = ("subordinate", "dominant")


class IMAE(Objective):
    """Loss of i-MAE on a batch of images (paper, sections 3.1 to 3.3)."""

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
        disentangle: bool = IMAESettings.disentangle,
        teacher_view: Literal["clean", "mixed"] = IMAESettings.teacher_view,
        teacher_precision: Literal["auto", "fp8"] = IMAESettings.teacher_precision,
        mask_ratio: float = IMAESettings.mask_ratio,
        mask_unit: int = 1,
        predict_ratio: float | None = IMAESettings.predict_ratio,
        ignore_boundary: int = IMAESettings.ignore_boundary,
        reciprocal_pairs: bool = IMAESettings.reciprocal_pairs,
        pixels: JitterSettings | None = None,
    ) -> None:
        """Join the models. Raises ValueError if they do not fit together.

        student: a model with two heads; without disentangle with one, whose output is what all
        targets are reconstructed from and compared with (section 4.3.1: the baseline "without the
        disentanglement module"). teacher: a MAE with one head, which gets frozen; None: no
        distillation. mix_beta, mix_lambda, mix_per: how mixing ratios are drawn, or their value.
        distill_weight: weight of the distillation loss. targets: images to reconstruct.
        teacher_view: images that the teacher sees. teacher_precision: "fp8" multiplies in 8 bits on
        GPUs that can. mask_ratio, mask_unit, predict_ratio, ignore_boundary: see `MAE`.
        reciprocal_pairs: each image's partner has it as partner, too; the loader must pair them so.
        pixels: what changes images before they are mixed; None: nothing. `IMAESettings` says more
        of each.
        """
        super().__init__()
        if disentangle and student.heads != 2:
            raise ValueError("i-MAE needs a student with two heads: create_model(name, heads=2)")
        if not disentangle and student.heads != 1:
            raise ValueError("without disentangle, i-MAE needs a student with one head")
        if student.weighted_feature_maps:
            raise ConfigError(
                "--weighted_feature_maps works with --objective mae and rmae: all that an i-MAE "
                "reconstructs comes from one latent"
            )
        self.student, self.pixels = student, Pixels(student, pixels)
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
        self.predict_ratio = predict_ratio
        _ = self.predicted  # raises if no such patches can be drawn
        self.ignore_boundary = ignore_boundary
        check_boundary(student, mask_ratio, mask_unit, ignore_boundary)
        self.reciprocal_pairs = reciprocal_pairs

    @classmethod
    def build(cls, settings: IMAESettings, models: Models) -> IMAE:
        heads = 2 if settings.disentangle else 1
        student = models.student(heads=heads, head_space=settings.head_space)
        unit = settings.mask_unit(student.patch_size)
        say_masked_share(student, settings)
        teacher = models.teacher(
            settings.teacher, student,
            name=settings.teach_model, num_heads=settings.teach_num_heads,
        )  # fmt: skip
        if teacher is None:
            log.info("no --teacher: i-MAE trains without distillation")
        return cls(
            student, teacher, mask_unit=unit, pixels=settings, **settings.taken_by(cls.__init__)
        )

    def teachers(self) -> dict[str, Teacher]:
        """Return the distilled MAE, which never changes: see `Objective`."""
        if self.teacher is None:
            return {}
        fixed = Teacher(
            module=self.teacher, precision=self.teacher_precision, output=self.teacher_latents
        )
        return {"teacher": fixed}

    @property
    def visible(self) -> int:
        """K, the patches of a mixture that stay visible."""
        return visible_patches(self.student.grid, self.mask_ratio, self.mask_unit)

    @property
    def predicted(self) -> int:
        """The patches of an image that are predicted."""
        return patches_predicted(self.student, self.visible, self.predict_ratio)

    def draw_mask(self, batch: Batch) -> Mask:
        """Draw the mask of each mixture; with `reciprocal_pairs` partners share theirs."""
        key = self._mask_key(batch)
        return random_masking(key, self.student.grid, self.mask_ratio, self.mask_unit)

    def _mask_key(self, batch: Batch) -> Tensor:
        key = batch.key
        return torch.minimum(key, key[batch.partner]) if self.reciprocal_pairs else key

    def forward(
        self, batch: Batch, mask: Mask | None = None, alpha: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return the loss of a `fastimae.loaders.Batch`, and its parts, as fp32 scalars.

        alpha: float [B], weight of the subordinate image; drawn if not given, as the mask is.
        Returns "loss", and for each target "recon_subordinate", "recon_dominant" and, with a
        teacher, "latent_subordinate", "latent_dominant", all plain means;
        loss = recon parts + distill_weight * latent parts. Raises ValueError if batch, mask or
        alpha does not fit the student.
        """
        check_paired_batch(self.student, batch, mask)
        batch, mask = self.pixels(batch), mask or self.draw_mask(batch)
        alpha = self.ratio(batch.key, batch.step_key) if alpha is None else alpha
        views = self._views(batch, mask, alpha)
        heads_nBNE = self._heads(views[0], mask, batch.key)
        recon_n = self._reconstruction(batch, mask, heads_nBNE)
        parts = dict(zip((f"recon_{name}" for name in self.targets), recon_n, strict=True))
        loss = recon_n.sum()
        if self.teacher is not None:
            teacher = self._teacher_latents(batch, mask, views)
            rows = heads_nBNE.flatten(0, 1)
            latent_n = self._per_branch(
                lambda target, n: latent_l2(rows, target, branches=n), teacher
            )
            parts.update(zip((f"latent_{name}" for name in self.targets), latent_n, strict=True))
            loss = loss + self.distill_weight * latent_n.sum()
        return {"loss": loss, **parts}

    def train_flops(self) -> int:
        """Count the operations per mixture, forward and backward: see `fastimae.models.flops`."""
        count = len(self.branches)
        decoded = count if self.student.heads == 2 else 1
        flops = training_flops(self.student, self.visible, decoded, self.predicted)
        if self.teacher is None:
            return flops
        one_pass = self.reciprocal_pairs or self.teacher_view == "mixed"
        latent = latent_flops(self.teacher, self.visible, self.student.head_space)
        return flops + (1 if one_pass else count) * latent

    @property
    def picture_note(self) -> str:
        note = "Every patch is shown as predicted in a pass in which it was masked."
        if self.student.heads == 1:
            note += " Both images have the same prediction, from one latent."
        return caption(self.student, self.mask_ratio, note)

    @torch.no_grad()
    def reconstruct(self, batch: Batch) -> dict[str, Tensor]:
        """Draw pictures, by title, [B, H, W, C] each; see `picture_note`.

        Each mixture has a ratio of its own, so that pictures of few batches show many ratios.
        """
        student = self.student
        check_paired_batch(student, batch)
        batch, drawn = self.pixels(batch), self.draw_mask(batch)
        images = batch.images
        alpha = self.ratio.of_samples(batch.key)
        mixture = mix_images(images, batch.partner, alpha)
        targets = (images, images[batch.partner])
        pictures = {
            "subordinate": images,
            "dominant": targets[1],
            "mixture": mixture,
            "masked": mask_out(student, mixture, drawn),
        }
        for mask in covering_masks(drawn, self.student.grid, self.mask_unit):
            heads_nBNE = self._heads(self._views(batch, mask, alpha)[0], mask, batch.key)
            heads_nBNE = heads_nBNE.expand(len(self.branches), -1, -1, -1)
            for branch, head_BNE in zip(self.branches, heads_nBNE, strict=True):
                pred_BLV = student.decode(head_BNE, mask)
                predicted = predicted_images(student, pred_BLV, targets[branch])
                title = f"{BRANCHES[branch]} reconstructed"
                pictures[title] = paste(student, pictures.get(title, predicted), predicted, mask)
        return pictures

    def teacher_latents(self, batch: Batch) -> Tensor:
        """Return the latents that `forward` distils, [n B, N, E]."""
        check_paired_batch(self.student, batch)
        batch, mask = self.pixels(batch), self.draw_mask(batch)
        alpha = self.ratio(batch.key, batch.step_key)
        return self._teacher_latents(batch, mask, self._views(batch, mask, alpha))

    def _views(self, batch: Batch, mask: Mask, alpha: Tensor) -> tuple[Tensor, ...]:
        """Return visible patches [B, K, V] of the mixtures and, for a teacher that sees clean
        images, of the images and of their partners."""
        clean = self.teacher is not None and self.teacher_view == "clean"
        return self.student.visible_patches(
            batch.images, mask, partner=batch.partner, alpha=alpha, clean=clean
        )

    def _heads(self, mixed: Tensor, mask: Mask, key: Tensor) -> Tensor:
        """Return the outputs of the heads that have a target, [n, B, N, E].

        Without heads of their own, branches share one latent, [1, B, N, E].
        """
        heads_HBNE = self.student.split(self.student.encode(mixed, mask.ids_keep, key))
        if self.student.heads == 1:
            return heads_HBNE
        return heads_HBNE[self.branches[0] : self.branches[-1] + 1]

    def _reconstruction(self, batch: Batch, mask: Mask, heads: Tensor) -> Tensor:
        """Return the losses of the branches, fp32 [n]; all heads are decoded as one batch."""
        of_all = mask.repeat(len(heads))
        rows = draw_predicted(of_all, self._mask_key(batch).repeat(len(heads)), self.predicted)
        pred = self.student.decode(heads.flatten(0, 1), of_all, rows=rows)
        ids = rows.ids_masked[: len(mask.mask)]  # those of one head, as of the others
        subordinate_B = torch.arange(len(batch.images), device=batch.images.device)
        images = subordinate_B, batch.partner
        target_nB = torch.cat([images[branch] for branch in self.branches])
        return self._per_branch(
            lambda target, n: self.student.reconstruction_loss(
                pred, batch.images, target, ids,
                branches=n, ignore_boundary=self.ignore_boundary,
            ),
            target_nB,
        )  # fmt: skip

    def _per_branch(self, loss: Callable[[Tensor, int | None], Tensor], targets: Tensor) -> Tensor:
        """Return a loss for each of n stacked targets, fp32 [n].

        loss: (targets, their number) -> one value each. Where branches share a latent, targets are
        compared with it one after another, so that it is not copied.
        """
        count = len(self.branches)
        if self.student.heads == 2:
            return loss(targets, count)
        return torch.stack([loss(target, None) for target in targets.chunk(count)])

    def _teacher_latents(self, batch: Batch, mask: Mask, views: tuple[Tensor, ...]) -> Tensor:
        """Return the frozen teacher's latents of the branches' images, [n B, N, E]."""
        count = len(self.branches)
        if self.teacher_view == "mixed":
            return self._teacher_latent(views[0], mask).repeat(count, 1, 1)
        _, *clean = views
        if self.reciprocal_pairs:  # the latents of partners are those of other rows
            latent_BNE = self._teacher_latent(clean[0], mask)
            both = latent_BNE, latent_BNE[batch.partner]
            return torch.cat([both[branch] for branch in self.branches])
        patches_nBKV = torch.cat([clean[branch] for branch in self.branches])
        return self._teacher_latent(patches_nBKV, mask.repeat(count))

    def _teacher_latent(self, patches: Tensor, mask: Mask) -> Tensor:
        # torch.compile does not support inference mode, and does as well with no_grad.
        compiling = torch.compiler.is_compiling()
        with torch.no_grad() if compiling else torch.inference_mode():
            latent = self.teacher.encode(patches, mask.ids_keep)
            if self.student.head_space == "encoder":
                return latent
            return self.teacher.decoder_embed(latent)
