"""Reconstructions of a batch at one masking ratio and, of mixtures, one mixing ratio.

B = images, H, W, C = height, width, channels, K = visible patches, n = class tokens, E = width of a
head's output.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from fastimae.evaluate.mixing.mixtures import Pairs, mixed_patches
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
from fastimae.pictures.display import Display

UNMASKED = "unmasked"
"""The view of predictions from whole images."""
ONE_HEAD = "mixture"
"""The branch of a model with one head that is fed mixtures."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """A batch, what the model saw of it, and what it predicted; all pixels [B, H, W, C].

    Predictions are in two views. "whole": every patch as predicted in a pass in which it was
    masked. "pasted": predictions on masked patches and the true image on visible ones, as MAE
    shows it, so that part of the picture is right by construction. Where nothing is masked there is
    one view, "unmasked": every patch as predicted from the whole image, without mask tokens
    (hierarchical paper, section C.3).
    """

    given: Tensor
    """The images, or their mixtures."""
    masked: Tensor
    """The same with gray in place of what the model does not see."""
    truths: dict[str, Tensor]
    """What there is to predict, by branch: "image", or of a mixture "subordinate" and "dominant";
    one head is for both, and is compared with the "mixture", too."""
    branches: tuple[str, ...]
    """The branches that have pictures of their own: the heads."""
    views: dict[str, dict[str, Tensor]]
    """Predictions by view and by the branch that they are compared with."""

    def best(self, *views: str) -> dict[str, Tensor]:
        """Return the predictions of the first view that there is, by branch."""
        return next(self.views[view] for view in (*views, UNMASKED) if view in self.views)

    def first(self, count: int, display: Display) -> Reconstruction:
        """Return the first `count` images as pictures, copied to the CPU."""
        cut = lambda images: display(images[:count]).to("cpu", copy=True)  # noqa: E731
        cut_all = lambda images: {branch: cut(each) for branch, each in images.items()}  # noqa: E731
        return Reconstruction(
            given=cut(self.given),
            masked=cut(self.masked),
            truths=cut_all(self.truths),
            branches=self.branches,
            views={view: cut_all(images) for view, images in self.views.items()},
        )


@torch.no_grad()
def reconstruct(
    model: MaskedAutoencoder,
    batch: Pairs,
    mask_ratio: float,
    mix_ratio: float | None = None,
    *,
    unit: int = 1,
    targets: tuple[str, ...] = BRANCHES,
) -> Reconstruction:
    """Reconstruct every image of the batch; of mixtures also its partner.

    mix_ratio: weight of the image in its mixture with the partner; None: the model is fed the image
    itself. unit: side, in patches, of the squares that are masked as a whole. targets: the heads,
    of two, that were trained. The one head of a model that is fed mixtures gives one picture; with
    norm_pix_loss its patches have the mean and deviation of the mixture's.
    """
    drawn = batch.mask(model, mask_ratio, unit)
    given, truths, branches = batch.images, {"image": batch.images}, ("image",)
    if mix_ratio is not None:
        weight = torch.full((len(given),), mix_ratio, device=given.device)
        given = mix_images(given, batch.partner, weight)
        truths = dict(zip(BRANCHES, (batch.images, batch.images[batch.partner]), strict=True))
        branches = targets
        if model.heads == 1:
            truths[ONE_HEAD], branches = given, (ONE_HEAD,)
    result = Reconstruction(
        given=given, masked=mask_out(model, given, drawn), truths=truths, branches=branches,
        views={},
    )  # fmt: skip
    # The drawn mask comes last: its predictions are those of "pasted", and win where masks overlap.
    for mask in reversed(list(covering_masks(drawn, model.grid, unit))):
        heads = _heads(model, batch, mask, mix_ratio)
        for made in branches:
            predicted = predicted_images(model, model.decode(heads[made], mask), truths[made])
            for branch in truths if made == ONE_HEAD else (made,):
                _show(model, result.views, branch, predicted, truths[branch], mask)
    return result


def _show(
    model: MaskedAutoencoder,
    views: dict[str, dict[str, Tensor]],
    branch: str,
    predicted: Tensor,
    truth: Tensor,
    mask: Mask,
) -> None:
    """Add the predictions of one pass to the views of a branch."""
    if not mask.ids_masked.shape[1]:
        views.setdefault(UNMASKED, {})[branch] = predicted
        return
    whole, pasted = views.setdefault("whole", {}), views.setdefault("pasted", {})
    pasted[branch] = paste(model, truth, predicted, mask)
    whole[branch] = paste(model, whole.get(branch, predicted), predicted, mask)


def _heads(
    model: MaskedAutoencoder, batch: Pairs, mask: Mask, ratio: float | None
) -> dict[str, Tensor]:
    """Compute what to decode by branch, float32 [B, n + K, E]: see `encode_for_decoder`."""
    if ratio is None:
        names, (patches,) = ("image",), model.visible_patches(batch.images, mask)
    else:
        names = BRANCHES if model.heads == 2 else (ONE_HEAD,)
        patches = mixed_patches(model, batch, mask, ratio)
    heads = model.split(model.encode_for_decoder(patches, mask.ids_keep))
    return dict(zip(names, heads.float(), strict=True))
