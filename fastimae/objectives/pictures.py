"""Pictures of masks, mixtures and predicted patches, as images of the dtype of the given ones.

`fastimae.pictures.display` shows them in 8 bits.

B = batch, H, W, C = image rows, columns, channels, P = patch size, L = patches of an image,
V = P*P*C values of a patch.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from fastimae.kernels import Mask
from fastimae.kernels.checks import (
    FULL_RANGE,
    check_mask,
    check_pairs,
    check_pixels,
    check_shape,
    check_size,
)
from fastimae.kernels.reference import as_bits, normalise, patch_statistics, patchify, unpatchify
from fastimae.models import MaskedAutoencoder
from fastimae.pictures.display import masked_level

LEAK_NOTE = (
    "norm_pix_loss: each predicted patch is shown with the mean and deviation of the true patch"
)


def caption(model: MaskedAutoencoder, mask_ratio: float, note: str) -> str:
    """Return the caption of pictures. note: how to read them."""
    leak = f"\n{LEAK_NOTE}" if model.norm_pix_loss else ""
    height, width = model.img_size
    size = f" {height} x {width} pixels." if model.img_size != model.made_for else ""
    return f"mask ratio {mask_ratio:g}.{size} {note}{leak}"


def predicted_images(model: MaskedAutoencoder, pred: Tensor, target: Tensor) -> Tensor:
    """Turn predicted patches into images, of target's dtype, [B, H, W, C].

    pred: [B, L, P*P*C]. target: uint8 or uint16 [B, H, W, C]. For a model trained with
    norm_pix_loss, each patch gets the mean and deviation of the *target* patch: the picture then
    shows more than the model predicted, and captions say so (LEAK_NOTE).
    """
    check_pixels("target", target)
    check_size("target", target, model.img_size, model.in_chans)
    patches, size = model.grid[0] * model.grid[1], model.patch_size**2 * model.in_chans
    check_shape("pred", pred, len(target), patches, size)
    pred_BLV = pred.float()
    if model.norm_pix_loss:
        target_BLV = normalise(patchify(target, model.patch_size), model.mean, model.std)
        mean_BL1, std_BL1 = patch_statistics(target_BLV)
        pred_BLV = pred_BLV * std_BL1 + mean_BL1
    return _as_images(model, pred_BLV, target.dtype)


def seen_images(model: MaskedAutoencoder, patches: Tensor, mask: Mask) -> Tensor:
    """Return the visible patches [B, K, P*P*C], as a model sees them, as images uint8 [B, H, W, C].

    What is masked has the mean colour: see `mask_out`.
    """
    check_mask(mask, len(patches), model.grid[0] * model.grid[1])
    empty_BLV = patches.new_zeros(*mask.mask.shape, patches.shape[-1], dtype=torch.float32)
    ids_BKV = mask.ids_keep.long()[..., None].expand_as(patches)
    return _as_images(model, empty_BLV.scatter(1, ids_BKV, patches.float()), torch.uint8)


def _as_images(model: MaskedAutoencoder, patches_BLV: Tensor, dtype: torch.dtype) -> Tensor:
    """Undo the normalisation of patches: uint8 or uint16 [B, H, W, C]."""
    image_BHWC = unpatchify(patches_BLV, model.grid, model.in_chans)
    mean_C = torch.tensor(model.mean, device=image_BHWC.device)
    std_C = torch.tensor(model.std, device=image_BHWC.device)
    full = FULL_RANGE[dtype]
    return ((image_BHWC * std_C + mean_C) * full).round().clamp(0, full).to(dtype)


def covering_masks(mask: Mask, grid: tuple[int, int], unit: int = 1) -> Iterator[Mask]:
    """Yield the mask, then others of its size, until every patch has been masked once.

    grid: patches (down, across). unit: side, in patches, of the squares that all of the masks
    consist of. A mask that hides nothing is the only one.
    """
    order_BL = _masked_first(mask, grid, unit)
    patches, hidden = order_BL.shape[1], mask.ids_masked.shape[1]
    if not hidden:
        yield mask
        return
    for start in range(0, patches, hidden):
        window = order_BL[:, min(start, patches - hidden) :][:, :hidden]
        masked_BL = torch.zeros_like(order_BL, dtype=torch.bool).scatter_(1, window, True)
        yield Mask.from_bool(masked_BL)


def _masked_first(mask: Mask, grid: tuple[int, int], unit: int) -> Tensor:
    """Return the numbers of all patches, int64 [B, L]: masked ones first, a unit after another."""
    down, across = (torch.arange(side, device=mask.mask.device) // unit for side in grid)
    unit_L = (down[:, None] * (grid[1] // unit) + across).flatten()
    visible_BL = 1 - mask.mask.long()
    return (visible_BL * len(unit_L) + unit_L).argsort(dim=1, stable=True)


def paste(model: MaskedAutoencoder, under: Tensor, over: Tensor, mask: Mask) -> Tensor:
    """Take `over` on masked patches and `under` on visible ones; all are pixels [B, H, W, C]."""
    for name, images in (("under", under), ("over", over)):
        check_pixels(name, images)
        check_size(name, images, model.img_size, model.in_chans)
    check_shape("over", over, *under.shape)
    check_mask(mask, len(under), model.grid[0] * model.grid[1])
    under_BLV, over_BLV = (patchify(as_bits(x), model.patch_size) for x in (under, over))
    patches_BLV = torch.where(mask.mask[..., None].bool(), over_BLV, under_BLV).view(under.dtype)
    return unpatchify(patches_BLV, model.grid, model.in_chans)


def mask_out(model: MaskedAutoencoder, images: Tensor, mask: Mask) -> Tensor:
    """Return images [B, H, W, C] with their masked patches gray, as `Display` shows them."""
    check_pixels("images", images)
    gray_C = masked_level(images.dtype, model.mean, model.std, images.device)
    return paste(model, images, gray_C.expand_as(images), mask)


def mix_images(images: Tensor, partner: Tensor, alpha: Tensor) -> Tensor:
    """Mix pixels [B, H, W, C]: alpha * image + (1 - alpha) * partner's; alpha: float [B]."""
    check_pixels("images", images)
    check_pairs(len(images), partner, alpha)
    weight_B111 = alpha[:, None, None, None]
    images_BHWC = images.float()
    mixed_BHWC = weight_B111 * images_BHWC + (1 - weight_B111) * images_BHWC[partner]
    return mixed_BHWC.round().to(images.dtype)
