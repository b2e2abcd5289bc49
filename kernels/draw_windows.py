"""Crop windows and flips, drawn from the samples' keys: torchvision's RandomResizedCrop.

B = batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fastimae.kernels import reference_crops
from fastimae.kernels._launch import Impl, jit, launch, tl, triton, use_triton
from fastimae.kernels.checks import check_windows

_BLOCK, _WARPS = 128, 4  # one key per thread, as in mixing_ratio


@jit
def _share(word):
    """Return word / 2^32, fp64."""
    return word.to(tl.float64) * 2.0**-32


@jit
def _rint(x):
    """Round fp64 in [0, 2^51] to an integer, halves to even: beyond 2^52 there are no fractions."""
    return (x + 4503599627370496.0) - 4503599627370496.0


@jit
def _draw_windows_kernel(
    key_ptr,
    key_stride,
    height_ptr,
    width_ptr,
    window_ptr,
    flip_ptr,
    count,
    STREAM: tl.constexpr,
    TRIES: tl.constexpr,
    SCALE_LOW: tl.constexpr,
    SCALE_RANGE: tl.constexpr,
    LOG_LOW: tl.constexpr,
    LOG_RANGE: tl.constexpr,
    LEAST: tl.constexpr,
    MOST: tl.constexpr,
    RANDOM: tl.constexpr,
    HFLIP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """window = the first of TRIES that fits, or the central one; flip = a word < 2^31.

    key, height, width [count]; window int32 [count, 4], flip bool [count], contiguous. Grid: blocks
    of BLOCK keys. Philox block i has (area, aspect) of tries 2 i and 2 i + 1, the one after them
    top, left and flip. The order of operations is that of `reference_crops`. Settings are constants
    because arguments would be rounded to fp32.
    """
    item = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = item < count
    key = tl.load(key_ptr + item.to(tl.int64) * key_stride, mask=inside, other=0)
    high = tl.load(height_ptr + item, mask=inside, other=1)
    wide = tl.load(width_ptr + item, mask=inside, other=1)
    zero = tl.zeros((BLOCK,), tl.int32)
    top, left, flip, _ = tl.philox(key, zero + TRIES // 2, zero, zero, zero + STREAM)
    out = window_ptr + item.to(tl.int64) * 4
    if RANDOM:
        tall, broad = zero, zero
        pixels = (high.to(tl.int64) * wide).to(tl.float64)
        for block in tl.static_range(TRIES // 2):
            words = tl.philox(key, zero + block, zero, zero, zero + STREAM)
            for pair in tl.static_range(2):
                scale_range = tl.full((), SCALE_RANGE, tl.float64)
                scale = _share(words[2 * pair]) * scale_range + tl.full((), SCALE_LOW, tl.float64)
                log_range = tl.full((), LOG_RANGE, tl.float64)
                log = _share(words[2 * pair + 1]) * log_range + tl.full((), LOG_LOW, tl.float64)
                area, aspect = pixels * scale, tl.exp(log)
                columns, rows = _rint(tl.sqrt(area * aspect)), _rint(tl.sqrt(area / aspect))
                fits = (columns > 0) & (columns <= wide) & (rows > 0) & (rows <= high)
                taken = fits & (tall == 0)
                tall = tl.where(taken, rows.to(tl.int32), tall)
                broad = tl.where(taken, columns.to(tl.int32), broad)
        fallback = tall == 0
        least, most = tl.full((), LEAST, tl.float64), tl.full((), MOST, tl.float64)
        shape = wide.to(tl.float64) / high.to(tl.float64)
        rows = tl.where(shape < least, _rint(wide.to(tl.float64) / least).to(tl.int32), high)
        columns = tl.where(shape > most, _rint(high.to(tl.float64) * most).to(tl.int32), wide)
        tall = tl.where(fallback, tl.maximum(rows, 1), tall)
        broad = tl.where(fallback, tl.maximum(columns, 1), broad)
        down, right = high - tall, wide - broad
        # Exact, as the product of a word / 2^32 in fp64 is.
        drawn = (top.to(tl.int64) * (down + 1) >> 32).to(tl.int32)
        tl.store(out, tl.where(fallback, down // 2, drawn), mask=inside)
        drawn = (left.to(tl.int64) * (right + 1) >> 32).to(tl.int32)
        tl.store(out + 1, tl.where(fallback, right // 2, drawn), mask=inside)
    else:
        tall, broad = high, wide
        tl.store(out, zero, mask=inside)
        tl.store(out + 1, zero, mask=inside)
    tl.store(out + 2, tall, mask=inside)
    tl.store(out + 3, broad, mask=inside)
    tl.store(flip_ptr + item, (flip >> 31 == 0) & HFLIP, mask=inside)


@torch.library.custom_op("fastimae::draw_windows", mutates_args=())
def _draw_windows(
    key: Tensor,
    height: Tensor,
    width: Tensor,
    scale: Sequence[float],
    ratio: Sequence[float],
    random: bool,
    hflip: bool,
) -> tuple[Tensor, Tensor]:
    window, flip = _empty_windows(key, height, width, scale, ratio, random, hflip)
    if len(key):
        low, high = math.log(ratio[0]), math.log(ratio[1])
        launch(
            _draw_windows_kernel,
            (triton.cdiv(len(key), _BLOCK),),
            fuse=False,
            key_ptr=key,
            key_stride=key.stride(0),
            height_ptr=height.contiguous(),
            width_ptr=width.contiguous(),
            window_ptr=window,
            flip_ptr=flip,
            count=len(key),
            STREAM=reference_crops.CROP_STREAM,
            TRIES=reference_crops.TRIES,
            SCALE_LOW=scale[0],
            SCALE_RANGE=scale[1] - scale[0],
            LOG_LOW=low,
            LOG_RANGE=high - low,
            LEAST=ratio[0],
            MOST=ratio[1],
            RANDOM=random,
            HFLIP=hflip,
            BLOCK=_BLOCK,
            num_warps=_WARPS,
        )
    return window, flip


@_draw_windows.register_fake
def _empty_windows(
    key: Tensor,
    height: Tensor,
    width: Tensor,
    scale: Sequence[float],
    ratio: Sequence[float],
    random: bool,
    hflip: bool,
) -> tuple[Tensor, Tensor]:
    window = key.new_empty((len(key), 4), dtype=torch.int32)
    return window, key.new_empty(len(key), dtype=torch.bool)


def draw_windows(
    key: Tensor,
    height: Tensor,
    width: Tensor,
    *,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    random: bool = True,
    hflip: bool = True,
    impl: Impl = "auto",
) -> tuple[Tensor, Tensor]:
    """Draw the window that each image is cropped to, and whether it is mirrored.

    key: int64 [B], any strides; equal keys draw equally. height, width: int32 [B], of the images in
    pixels. scale: smallest and largest share of an image's area in its window. ratio: bounds of a
    window's width / height in pixels. The first of ten tries that fits is taken, else the largest
    window in the middle whose shape is allowed. random: if False, the window is the whole image.
    hflip: mirror half of the images. impl: "triton", "torch", or "auto" for the faster available.

    Returns window, int32 [B, 4], as (top, left, height, width), and flip, bool [B]: those of
    `fastimae.loaders.images.crops.draw_windows`. All is computed in fp64, no product is fused with
    a sum, and only `exp` is not rounded alike everywhere: another last bit of it changes a window
    where a side is that close to a half, once in 10^12 draws.
    Raises ValueError for arguments that do not fit, and if impl="triton" cannot run.
    """
    check_windows(key, height, width, scale, ratio)
    if use_triton("draw_windows", impl, key):
        return _draw_windows(key, height, width, list(scale), list(ratio), random, hflip)
    return reference_crops.draw_windows(
        key, height, width, scale=scale, ratio=ratio, random=random, hflip=hflip
    )
