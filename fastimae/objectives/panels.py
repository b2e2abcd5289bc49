"""From predicted patches to pictures that can be looked at."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from fastimae.kernels import Mask
from fastimae.kernels.checks import check_bytes, check_mask, check_pairs, check_shape, check_size
from fastimae.kernels.reference import normalise, patch_statistics, patchify, unpatchify
from fastimae.models import MaskedAutoencoder

MASKED_GRAY = 128
LEAK_NOTE = (
    "norm_pix_loss: each predicted patch is shown with the mean and deviation of the true patch"
)


def caption(model: MaskedAutoencoder, mask_ratio: float, shown: str) -> str:
    """What is said below pictures; shown: how to read them."""
    leak = f"\n{LEAK_NOTE}" if model.norm_pix_loss else ""
    return f"mask ratio {mask_ratio:g}. {shown}{leak}"


def predicted_images(model: MaskedAutoencoder, pred: Tensor, target: Tensor) -> Tensor:
    """Predicted patches as a picture.

    pred: [B, L, P*P*C]. target: uint8 [B, H, W, C]. Returns uint8 [B, H, W, C]. Where the model
    was trained with norm_pix_loss, each patch gets back the mean and deviation of the *target*
    patch: the picture then shows more than the model knows, and captions say so (LEAK_NOTE).
    """
    check_bytes("target", target)
    check_size("target", target, model.img_size, model.in_chans)
    patches, size = model.grid[0] * model.grid[1], model.patch_size**2 * model.in_chans
    check_shape("pred", pred, len(target), patches, size)
    shown = pred.float()
    if model.norm_pix_loss:
        patches = normalise(patchify(target, model.patch_size), model.mean, model.std)
        mean, std = patch_statistics(patches)
        shown = shown * std + mean
    image = unpatchify(shown, model.grid, model.in_chans)
    channel_mean = torch.tensor(model.mean, device=image.device)
    channel_std = torch.tensor(model.std, device=image.device)
    return ((image * channel_std + channel_mean) * 255).round().clamp(0, 255).to(torch.uint8)


def covering_masks(mask: Mask) -> Iterator[Mask]:
    """The mask, then others of its size, until every patch has been masked once."""
    order = torch.cat([mask.ids_masked, mask.ids_keep], dim=1).long()
    patches, hidden = order.shape[1], order.shape[1] - mask.ids_keep.shape[1]
    for start in range(0, patches, hidden):
        window = order[:, min(start, patches - hidden) :][:, :hidden]
        masked = torch.zeros_like(order, dtype=torch.bool).scatter_(1, window, True)
        yield Mask.from_bool(masked)


def paste(model: MaskedAutoencoder, under: Tensor, over: Tensor, mask: Mask) -> Tensor:
    """`over` on masked patches, `under` on visible ones; uint8 [B, H, W, C] all three."""
    for name, images in (("under", under), ("over", over)):
        check_bytes(name, images)
        check_size(name, images, model.img_size, model.in_chans)
    check_shape("over", over, *under.shape)
    check_mask(mask, len(under), model.grid[0] * model.grid[1])
    below, above = (patchify(images, model.patch_size) for images in (under, over))
    patches = torch.where(mask.mask[..., None].bool(), above, below)
    return unpatchify(patches, model.grid, model.in_chans)


def mask_out(model: MaskedAutoencoder, images: Tensor, mask: Mask) -> Tensor:
    """The images, uint8 [B, H, W, C], with their masked patches gray."""
    return paste(model, images, torch.full_like(images, MASKED_GRAY), mask)


def mix_images(images: Tensor, partner: Tensor, alpha: Tensor) -> Tensor:
    """alpha * image + (1 - alpha) * partner's image, uint8 [B, H, W, C]; alpha: float [B]."""
    check_bytes("images", images)
    check_pairs(len(images), partner, alpha)
    weight = alpha[:, None, None, None]
    mixed = weight * images.float() + (1 - weight) * images[partner].float()
    return mixed.round().to(torch.uint8)
