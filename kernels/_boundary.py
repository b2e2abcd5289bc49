"""Which masked pixels are near a visible patch: `masked_l2` can leave them out of its mean.

B = images, M = masked patches, P = patch size, C = channels, D = P*P*C values of a patch.
The 3x3 patches around a masked patch have the bits 0 to 8, row by row. `visible` of a patch has the
bits of those that are visible; `within` of a pixel has the bits of those with a pixel at most
`reach` rows and at most `reach` columns away. The pixel is near if the two share a bit, and kept
otherwise. A reach is at most P: patches farther away are beyond it.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from fastimae.kernels._launch import jit, launch, tl
from fastimae.kernels._mean_square import kept_weight

_BITS = 9
_BLOCK, _WARPS = 32, 4


@jit
def _boundary_kernel(
    ids_ptr,
    stride_ids,
    kept_ptr,
    visible_ptr,
    weight_ptr,
    masked,
    down,
    across,
    pixels,
    BLOCK: tl.constexpr,
):
    """visible of each masked patch of an image, and weight = M * pixels / sum of kept[visible].

    ids: [B, masked], distinct in a row. kept: fp32 [512], how many of a patch's pixels are not
    near. visible: int16 [B, masked]. weight: fp32 [B], 0 where no pixel is kept. down, across:
    patches of an image; there are no visible ones beyond its border.
    Grid: one program per image. It compares all pairs of masked patches: there are few.
    """
    image = tl.program_id(0).to(tl.int64)
    ids_ptr += image * stride_ids
    lane = tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float32)
    for first in range(0, masked, BLOCK):
        inside = first + lane < masked
        patch = tl.load(ids_ptr + first + lane, mask=inside, other=0).to(tl.int32)
        row, column = patch // across, patch % across
        hidden = tl.zeros([BLOCK], tl.int32)
        for start in range(0, masked, BLOCK):
            exists = start + lane < masked
            other = tl.load(ids_ptr + start + lane, mask=exists, other=0).to(tl.int32)[None, :]
            lower = other // across - row[:, None] + 1
            right = other % across - column[:, None] + 1
            around = exists[None, :] & (lower >= 0) & (lower < 3) & (right >= 0) & (right < 3)
            bit = tl.where(around, 3 * lower + right, 0)
            hidden += tl.sum(tl.where(around, 1 << bit, 0), 1)
        hidden |= tl.where(row == 0, 0b000000111, 0) | tl.where(row == down - 1, 0b111000000, 0)
        hidden |= tl.where(column == 0, 0b001001001, 0)
        hidden |= tl.where(column == across - 1, 0b100100100, 0)
        visible = ~hidden & 0b111111111
        tl.store(visible_ptr + image * masked + first + lane, visible.to(tl.int16), mask=inside)
        total += tl.load(kept_ptr + visible, mask=inside, other=0)
    kept = tl.sum(total, 0)
    weight = tl.where(kept > 0, masked * pixels / tl.maximum(kept, 1), 0.0)
    tl.store(weight_ptr + image, weight)


def boundary(
    weight: Tensor,
    ids_masked: Tensor,
    images: Tensor,
    patch_size: int,
    reach: int,
    kept: Tensor | None = None,
) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """Fill weight, fp32 [n*B], and return visible int16 [B, M] and within int16 [D].

    ids_masked: [B, M], contiguous along M; all other patches of images, [N, H, W, C], are visible.
    weight: of the mean over an image's kept pixels, relative to one over all. kept: bool [B, M],
    whole patches that are kept, in place of a reach: the others then have a bit that every pixel
    has. Without both nothing runs. Call it only inside a custom op, where tensors are real.
    """
    if kept is not None:
        weight.view(-1, len(kept)).copy_(kept_weight(kept))
        size = patch_size**2 * images.shape[3]
        return (~kept).short(), torch.ones(size, dtype=torch.int16, device=kept.device)
    if not reach:
        return None, None
    visible = ids_masked.new_empty(ids_masked.shape, dtype=torch.int16)
    weight_B = weight.new_empty(len(ids_masked))
    down, across, channels = _sizes(images, patch_size)
    within, kept = _tables(patch_size, channels, reach, ids_masked.device)
    launch(
        _boundary_kernel,
        (len(ids_masked),),
        ids_ptr=ids_masked,
        stride_ids=ids_masked.stride(0),
        kept_ptr=kept,
        visible_ptr=visible,
        weight_ptr=weight_B,
        masked=ids_masked.shape[1],
        down=down,
        across=across,
        pixels=patch_size**2,
        BLOCK=_BLOCK,
        num_warps=_WARPS,
    )
    weight.view(-1, len(weight_B)).copy_(weight_B)  # branches may share ids
    return visible, within


@functools.cache
def _tables(
    patch_size: int, channels: int, reach: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return within, int16 [D], and the number of pixels that each value of visible keeps."""
    within_P = _within(patch_size, reach, device)
    every_V = torch.arange(2**_BITS, dtype=torch.int16, device=device)
    kept_V = ((within_P & every_V[:, None]) == 0).sum(1).float()
    return within_P.repeat_interleave(channels), kept_V


def _within(patch_size: int, reach: int, device: torch.device) -> Tensor:
    """Return the bits of the patches within reach of each pixel of a patch, int16 [P*P]."""
    side_P = torch.arange(patch_size, device=device)
    before, after = side_P < reach, side_P >= patch_size - reach
    rows_P = before.short() + 8 + 64 * after.short()
    columns_P = before.short() + 2 + 4 * after.short()
    return (rows_P[:, None] * columns_P).flatten()


def kept_values(
    ids_masked: Tensor, images: Tensor, patch_size: int, reach: int, kept: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return bool [B, M, D or 1], which values are kept, and weight fp32 [B], in torch.

    The arguments are those of `boundary`, of any strides; weight is the same.
    """
    if kept is not None:
        return kept[..., None], kept_weight(kept)
    down, across, channels = _sizes(images, patch_size)
    visible_BM = _visible(ids_masked.long(), down, across)
    kept_BMP = (visible_BM[..., None] & _within(patch_size, reach, ids_masked.device)) == 0
    kept_B = kept_BMP.flatten(1).sum(1)
    weight_B = torch.where(kept_B > 0, kept_BMP[0].numel() / kept_B, 0)
    return kept_BMP.repeat_interleave(channels, 2), weight_B


def _sizes(images: Tensor, patch_size: int) -> tuple[int, int, int]:
    """Return patches down, patches across, and channels of images [N, H, W, C]."""
    _, height, width, channels = images.shape
    return height // patch_size, width // patch_size, channels


def _visible(ids: Tensor, down: int, across: int) -> Tensor:
    """Return visible, int16 [B, M], for int64 ids."""
    seen = torch.ones(len(ids), down, across, dtype=torch.int64, device=ids.device)
    wide = across + 2  # with a frame of patches that are not visible
    place_BM = (ids // across + 1) * wide + ids % across + 1
    seen = F.pad(seen, (1, 1, 1, 1)).flatten(1).scatter(1, place_BM, 0)
    bit_9 = torch.arange(_BITS, device=ids.device)
    around_BM9 = place_BM[..., None] + (bit_9 // 3 - 1) * wide + bit_9 % 3 - 1
    seen_BM9 = seen.gather(1, around_BM9.flatten(1)).view(around_BM9.shape)
    return (seen_BM9 << bit_9).sum(-1).short()
