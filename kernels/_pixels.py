"""The pixels of a patch: their addresses in an image, their normalisation, and a gather in torch.

B = batch, H, W, C = image rows, columns, channels, P = patch size, K = gathered patches,
D = P*P*C. A patch has P*P*C pixels (one value each) in the order (row, column, channel).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from fastimae.kernels._launch import jit, tl
from fastimae.kernels.checks import FULL_RANGE, are_pixels
from fastimae.kernels.reference import constants, select_rows


@jit
def pixel_offsets(
    patch,
    pixel,
    across,
    stride_h,
    stride_w,
    stride_c,
    PATCH: tl.constexpr,
    CHANNELS: tl.constexpr,
    DENSE: tl.constexpr,
    UNIT: tl.constexpr = 1,
):
    """Return the offset, int64 in elements, of a pixel of a patch from the image's first element.

    patch: patch number, row by row. pixel: number within the patch, [0, P*P*C). The two broadcast.
    across: patches per row of the image. DENSE: `dense_rows(images)`; neighbours in a patch's row
    are then neighbours in memory, and the compiler can tell: a block whose last axis is an `arange`
    loads vectors as wide as the divisibility of P*C, strides and pointer permits. The compiler
    notices only strides that are multiples of 16: for 2, 4 or 8 pass stride_h // UNIT and UNIT.
    """
    row = pixel // (PATCH * CHANNELS)
    place = pixel % (PATCH * CHANNELS)
    down = (patch // across).to(tl.int64) * PATCH * stride_h * UNIT
    left = (patch % across).to(tl.int64) * PATCH
    lower = row.to(tl.int64) * stride_h * UNIT
    if DENSE:
        return down + left * CHANNELS + (lower + place)
    column, channel = place // CHANNELS, place % CHANNELS
    inner = lower + column.to(tl.int64) * stride_w + channel.to(tl.int64) * stride_c
    return down + left * stride_w + inner


def dense_rows(images: Tensor) -> bool:
    """Return whether the values of each row of images [B, H, W, C] are contiguous in memory."""
    channels = images.shape[3]
    return images.stride(2) == channels and (channels == 1 or images.stride(3) == 1)


@functools.cache
def scale_and_bias(
    mean: tuple[float, ...],
    std: tuple[float, ...],
    patch_size: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor | None:
    """Return scale and bias, fp32 [2, P*C], that normalise a patch's row of pixels x; or None.

    (x / full - mean) / std = x * scale + bias, where full is the dtype's `FULL_RANGE`; floats have
    none. Made once: a copy to the device stalls it and breaks CUDA graphs. Call it only inside a
    custom op, where tensors are real.
    """
    full = FULL_RANGE.get(dtype)
    return None if full is None else _affine(mean, std, full, patch_size, device)


def _affine(
    mean: Sequence[float], std: Sequence[float], full: int, repeat: int, device: torch.device
) -> Tensor:
    scale = [1 / (full * s) for s in std]
    bias = [-m / s for m, s in zip(mean, std, strict=True)]
    return torch.stack([constants(scale, device), constants(bias, device)]).repeat(1, repeat)


def gather_patches(
    images: Tensor, ids: Tensor, patch_size: int, source: Tensor | None = None
) -> Tensor:
    """Gather patches ids [B, K] of images[b], or of images[source[b]]: [B, K, P*P*C], same dtype.

    Works on rows of pixels, so that of contiguous images only these patches are copied.
    """
    count, height, width, channels = images.shape
    across, row_length = width // patch_size, patch_size * channels
    if source is None:
        source = torch.arange(count, device=images.device)
    top_BK = source[:, None] * height + ids // across * patch_size
    below_P = torch.arange(patch_size, device=images.device) * across
    rows_BKP = (top_BK * across + ids % across)[..., None] + below_P
    by_row = images.reshape(count * height * across, row_length)
    patches = select_rows(by_row, rows_BKP.flatten())
    return patches.view(*ids.shape, patch_size * row_length)


def normalise(patches: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Compute `reference.normalise` in one product and one sum, in place: fp32 [..., P*P*C]."""
    if not are_pixels(patches):
        return patches.float()
    full, repeat = FULL_RANGE[patches.dtype], patches.shape[-1] // len(mean)
    scale, bias = _affine(mean, std, full, repeat, patches.device)
    return patches.float().mul_(scale).add_(bias)
