"""Reconstructions of a batch at one masking ratio and, for i-MAE, one mixing ratio.

B = images, H, W, C = height, width, channels, K = visible patches, E = width of a head's output.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from fastimae.evaluate.mixing.mixtures import Pairs, clean_latents, mixture_latents
from fastimae.kernels import Mask
from fastimae.models import MaskedAutoencoder
from fastimae.objectives.imae import BRANCHES
from fastimae.objectives.pictures import (
    covering_masks,
    mask_out,
    mix_images,
    paste,
    predicted_images,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """A batch, what the model saw of it, and what it predicted; all uint8 [B, H, W, C].

    Predictions are in two views. "whole": every patch as predicted in a pass in which it was
    masked. "pasted": predictions on masked patches and the true image on visible ones, as MAE
    shows it, so that part of the picture is right by construction.
    """

    given: Tensor
    """The images, or their mixtures."""
    masked: Tensor
    """The same with gray in place of what the model does not see."""
    truths: dict[str, Tensor]
    """By branch: "image" for a MAE, "subordinate" and "dominant" for i-MAE."""
    whole: dict[str, Tensor]
    """By branch."""
    pasted: dict[str, Tensor]
    """By branch."""

    def first(self, count: int) -> Reconstruction:
        """Return the first `count` images, copied to the CPU."""
        cut = lambda images: images[:count].to("cpu", copy=True)  # noqa: E731
        return Reconstruction(
            given=cut(self.given),
            masked=cut(self.masked),
            **{
                name: {branch: cut(images) for branch, images in getattr(self, name).items()}
                for name in ("truths", "whole", "pasted")
            },
        )


@torch.no_grad()
def reconstruct(
    model: MaskedAutoencoder, batch: Pairs, mask_ratio: float, mix_ratio: float | None = None
) -> Reconstruction:
    """Reconstruct every image of the batch; a model with two heads also its partner.

    mix_ratio: weight of the image in its mixture with the partner, for a model with two heads.
    """
    drawn = batch.mask(model, mask_ratio)
    given, truths = batch.images, {"image": batch.images}
    if mix_ratio is not None:
        weight = torch.full((len(given),), mix_ratio, device=given.device)
        given = mix_images(given, batch.partner, weight)
        truths = dict(zip(BRANCHES, (batch.images, batch.images[batch.partner]), strict=True))
    whole: dict[str, Tensor] = {}
    pasted: dict[str, Tensor] = {}
    # The drawn mask comes last: its predictions are those of `pasted`, and win where masks overlap.
    for mask in reversed(list(covering_masks(drawn))):
        heads = _heads(model, batch, mask, mix_ratio)
        for (branch, truth), head in zip(truths.items(), heads, strict=True):
            predicted = predicted_images(model, model.decode(head, mask), truth)
            pasted[branch] = paste(model, truth, predicted, mask)
            whole[branch] = paste(model, whole.get(branch, predicted), predicted, mask)
    return Reconstruction(
        given=given, masked=mask_out(model, given, drawn), truths=truths, whole=whole, pasted=pasted
    )


def _heads(model: MaskedAutoencoder, batch: Pairs, mask: Mask, ratio: float | None) -> Tensor:
    """Compute the latents to decode, float32 [heads, B, 1 + K, E]."""
    if ratio is None:
        return clean_latents(model, batch, mask)[None]
    return mixture_latents(model, batch, mask, ratio)
