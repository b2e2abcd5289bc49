"""C-MAE: contrast two masked views of an image (Kong & Zhang, 2022, section 3).

B = batch, K = visible patches, L = patches of an image, V = values of a patch, D = encoder width,
n = class tokens, N = tokens of the encoder (n + L with mask tokens, else n + K), T = places that
are contrasted, P = width of the heads' output.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from fastimae.kernels import Mask
from fastimae.models import MaskedAutoencoder
from fastimae.models.flops import encoder_flops, mlp_flops
from fastimae.models.forward_features import class_token_of
from fastimae.models.mask_tokens import MaskToken, encode_with_mask_tokens
from fastimae.models.vit import Mlp, init_weights
from fastimae.objectives.base import Models, Objective, Teacher
from fastimae.objectives.batches import check_batch
from fastimae.objectives.contrast import byol, cosines, directions, gather_ranks, info_nce, spread
from fastimae.objectives.masked_share import say_masked_shares
from fastimae.objectives.masks import draw_mask, patches_seen
from fastimae.objectives.pictures import caption
from fastimae.objectives.pixels import Pixels
from fastimae.objectives.second_view import SecondView
from fastimae.objectives.settings import CMAESettings
from fastimae.settings import ConfigError

if TYPE_CHECKING:
    from fastimae.loaders.base import Batch


class CMAE(Objective):
    """Loss of C-MAE on a batch of uint8 images (equations 9 to 11)."""

    Settings, title, has_decoder = CMAESettings, "C-MAE", False

    def __init__(self, student: MaskedAutoencoder, settings: CMAESettings | None = None) -> None:
        """Keep the encoder to train, `student`, and add heads and the target model, a copy.

        Raises ValueError if a mask of the settings cannot be drawn, or leaves nothing to compare.
        """
        super().__init__()
        self.settings = settings = settings or CMAESettings()
        settings.check()
        self.student, self.pixels = student, Pixels(student, settings)
        self.mask_unit = settings.mask_unit(student.patch_size)
        self.second = SecondView(
            kind=settings.second_view if settings.mask_ratio else "full",
            mask_ratio=settings.second_mask_ratio,
            mask_unit=self.mask_unit,
        )
        _ = self.visible  # raises if no such mask can be drawn
        width, heads = student.cls_token.shape[-1], (settings.proj_hidden_dim, settings.proj_dim)
        self.projector, self.predictor = Mlp(width, *heads), Mlp(settings.proj_dim, *heads)
        for head in (self.projector, self.predictor):
            head.apply(init_weights)
        masks = settings.encoder_mask_tokens and settings.mask_ratio > 0
        self.mask_token = MaskToken(width) if masks else None
        self.target = copy.deepcopy(nn.ModuleDict(self._averaged())).requires_grad_(False).eval()

    @classmethod
    def build(cls, settings: CMAESettings, models: Models) -> CMAE:
        student = models.student(decoder=False)
        say_masked_shares(student, settings)
        return cls(student, settings)

    def trainable(self) -> dict[str, nn.Module]:
        return self._averaged() | {"predictor": self.predictor}

    def teachers(self) -> dict[str, Teacher]:
        return {"target": Teacher(module=self.target, moves=True)}

    def after_update(self) -> None:
        """Move the target model towards the online one: an average of their fp32 weights."""
        for name, module in self._averaged().items():
            slow, fast = list(self.target[name].parameters()), list(module.parameters())
            torch._foreach_lerp_(slow, fast, 1 - self.settings.ema_momentum)

    def _averaged(self) -> dict[str, nn.Module]:
        """Return the modules that the target model is an average of."""
        modules = {"student": self.student, "projector": self.projector}
        return modules | ({"mask_token": self.mask_token} if self.mask_token else {})

    @property
    def visible(self) -> tuple[int, int]:
        """The patches that each view of an image shows."""
        first = patches_seen(self.student, self.settings.mask_ratio, self.mask_unit)
        return first, self.second.patches_seen(self.student, first)

    def draw_masks(self, key: Tensor) -> tuple[Mask, Mask]:
        """Draw the masks of both views of each sample, functions of its key, int64 [B]."""
        first = draw_mask(self.student, key, self.settings.mask_ratio, self.mask_unit)
        return first, self.second.draw_mask(self.student, key, first)

    def forward(self, batch: Batch, masks: tuple[Mask, Mask] | None = None) -> dict[str, Tensor]:
        """Return the loss of a `fastimae.loaders.Batch`, and its parts, as fp32 scalars.

        masks: of both views; drawn if not given. Returns "loss", "positive", the mean cosine of
        the two views of an image, and "spread", how much the target's output differs between
        images: 0 if it has collapsed. Raises ValueError if batch or masks do not fit the student.
        """
        masks = masks or self.draw_masks(batch.key)
        for mask in masks:
            check_batch(self.student, batch, mask)
        batch = self.pixels(batch)
        projected_BTP = self._project(self._averaged(), batch, masks[0], 0)
        online_BTP = directions(self.predictor(projected_BTP))
        with torch.no_grad():
            target_BTP = directions(self._project(self.target, batch, masks[1], 1))
        ids_BTP = self._places(masks[0], online_BTP)
        own_BTP = target_BTP if ids_BTP is None else target_BTP.gather(1, ids_BTP)
        positive_BT = cosines(online_BTP, own_BTP)
        if self.settings.contrast == "byol":
            loss_BT = byol(positive_BT)
        else:
            loss_BT = self._info_nce(online_BTP, target_BTP, ids_BTP)
        return {
            "loss": loss_BT.mean(),
            "positive": positive_BT.mean(),
            "spread": spread(target_BTP),
        }

    def train_flops(self) -> int:
        """Count the operations per image, forward and backward: see `fastimae.models.flops`.

        Products with negatives do not count: their number depends on that of the processes.
        """
        total = 0
        for seen, trained in zip(self.visible, (True, False), strict=True):
            patches = self.student.patches if self.mask_token else seen
            tokens = self.student.class_tokens + patches
            places = {"patch": patches, "both": tokens}.get(self.settings.tokens, 1)
            heads = (self.projector, self.predictor) if trained else (self.projector,)
            total += encoder_flops(self.student, seen, tokens, backward=trained)
            total += sum(mlp_flops(places, head, backward=trained) for head in heads)
        return total

    @property
    def picture_note(self) -> str:
        return caption(self.student, self.settings.mask_ratio, "What the two models see.")

    @torch.no_grad()
    def reconstruct(self, batch: Batch) -> dict[str, Tensor]:
        """Draw pictures of both views, by title, uint8 [B, H, W, C] each; there is no decoder."""
        check_batch(self.student, batch)
        batch, pictures = self.pixels(batch), {"input": batch.images}
        for view, mask in enumerate(self.draw_masks(batch.key)):
            pictures[f"view {view + 1}"] = self.pixels.picture(self.student, batch, mask, view=view)
        return pictures

    def _project(
        self, modules: Mapping[str, nn.Module], batch: Batch, mask: Mask, view: int
    ) -> Tensor:
        """Return a view's projections of the tokens to contrast, [B, T, P].

        modules: as `_averaged`, online ones or the target's.
        """
        encoder = modules["student"]
        patches_BKV = self.pixels.visible_patches(self.student, batch, mask, view=view)
        if self.mask_token is None:
            latent_BND = encoder.encode(patches_BKV, mask.ids_keep, batch.key)
        else:
            token = modules["mask_token"].weight
            latent_BND = encode_with_mask_tokens(encoder, token, patches_BKV, mask, batch.key)
        first = encoder.class_tokens
        return modules["projector"](chosen_tokens(latent_BND, self.settings.tokens, first))

    def _info_nce(self, online: Tensor, target: Tensor, ids: Tensor | None) -> Tensor:
        """Return InfoNCE of each online token [B, T]. ids: their places, if not all are there.

        Raises ConfigError without other images: the loss would be 0, and nothing be learned.
        """
        joined, first = gather_ranks(target)
        if len(joined) < 2:
            raise ConfigError(
                "--contrast infonce contrasts an image with the others of its batch, which has "
                "none: use a --batch_size of 2 or more, or --contrast byol"
            )
        if ids is None:
            return info_nce(online, joined, first, self.settings.temperature)
        # Without mask tokens, each image has tokens at places of its own: the others stay zeros.
        everywhere = online.new_zeros(target.shape).scatter(1, ids, online)
        loss_BT = info_nce(everywhere, joined, first, self.settings.temperature)
        return loss_BT.gather(1, ids[..., 0])

    def _places(self, mask: Mask, online: Tensor) -> Tensor | None:
        """Return the places of online tokens [B, T, P] among the target's; None if the same."""
        per_patch = self.settings.tokens in ("patch", "both")
        if self.mask_token is not None or not per_patch or not self.settings.mask_ratio:
            return None
        ids_BT = mask.ids_keep.long()
        if self.settings.tokens == "both":
            first = torch.arange(self.student.class_tokens, device=ids_BT.device)
            ids_BT = torch.cat([first.expand(len(ids_BT), -1), ids_BT + len(first)], dim=1)
        return ids_BT[..., None].expand_as(online)


def chosen_tokens(
    latent: Tensor, tokens: Literal["patch", "cls", "average", "both"], class_tokens: int
) -> Tensor:
    """Return the tokens of latents [B, n + L, D] that are contrasted (table 3): [B, T, D].

    Ours: of several class tokens (n > 1), the mean is contrasted as "cls", and each as "both".
    """
    if tokens == "both":
        return latent
    if tokens == "cls":
        return class_token_of(latent, class_tokens)[:, None]
    patches = latent[:, class_tokens:]
    return patches.mean(1, keepdim=True) if tokens == "average" else patches
