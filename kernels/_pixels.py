"""The pixels of a patch: where they lie in an image, how they are normalised, how to gather them.

B = batch, H, W, C = image rows, columns, channels, P = patch size. A patch has P*P*C pixels
(one value each), numbered in the order (row, column, channel).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from fastimae.kernels._launch import jit, tl
from fastimae.kernels.reference import constants


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
    """Elements from an image's first to the given pixel of the given patch, int64.

    patch: patch number, row by row. pixel: number in its patch, [0, P*P*C). The two broadcast.
    across: patches in a row of the image. DENSE: `dense_rows(images)`; neighbours in a row of a
    patch are then neighbours in memory, and the compiler sees it: a block whose last axis is
    `arange` loads vectors as wide as P*C, the strides and the pointer are divisible. The compiler
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
    """Whether the values of each row of images [B, H, W, C] are contiguous in memory."""
    channels = images.shape[3]
    return images.stride(2) == channels and (channels == 1 or images.stride(3) == 1)


@functools.cache
def scale_and_bias(
    mean: tuple[float, ...], std: tuple[float, ...], patch_size: int, device: torch.device
) -> Tensor:
    """fp32 [2, P*C]: byte x of a patch's row is (x / 255 - mean) / std = x * scale + bias.

    Made once: a copy to the device stalls it and breaks CUDA graphs. Call it inside a custom op
    only, which runs on real tensors.
    """
    return _affine(mean, std, patch_size, device)


def _affine(
    mean: Sequence[float], std: Sequence[float], repeat: int, device: torch.device
) -> Tensor:
    scale = [1 / (255 * s) for s in std]
    bias = [-m / s for m, s in zip(mean, std, strict=True)]
    return torch.stack([constants(scale, device), constants(bias, device)]).repeat(1, repeat)


def gather_patches(
    images: Tensor, ids: Tensor, patch_size: int, source: Tensor | None = None
) -> Tensor:
    """The patches ids [B, K] of images[b], or of images[source[b]]: [B, K, P*P*C], same dtype.

    Gathers rows of pixels in torch, so of contiguous images nothing but these patches is copied.
    """
    count, height, width, channels = images.shape
    across, row_length = width // patch_size, patch_size * channels
    if source is None:
        source = torch.arange(count, device=images.device)
    top = source[:, None] * height + ids // across * patch_size
    below = torch.arange(patch_size, device=images.device) * across
    rows = (top * across + ids % across)[..., None] + below
    pixels = images.reshape(count * height * across, row_length).index_select(0, rows.flatten())
    return pixels.view(*ids.shape, patch_size * row_length)


def normalise(patches: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """fp32; uint8 patches [..., P*P*C] to (x / 255 - mean) / std by channel."""
    if patches.dtype != torch.uint8:
        return patches.float()
    scale, bias = _affine(mean, std, patches.shape[-1] // len(mean), patches.device)
    return patches.float().mul_(scale).add_(bias)
