"""Colours of images, or of their visible patches, changed by factors: both ops of colour jitter.

B = batch, H, W = image rows, columns, P = patch size, K = visible patches, N = pixels of a sample:
H*W, or K*P*P. The kernels' colours are in 0..255 while they change: every change is as good in
these units as in 0..1, and bytes need no conversion.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastimae.kernels import reference_colors
from fastimae.kernels._colors_cpu import change_on_cpu
from fastimae.kernels._launch import jit, launch, tl, triton
from fastimae.kernels._pixels import scale_and_bias

_CHUNK, _WARPS = 1024, 4  # pixels of a program: 8 for each thread


@jit
def _order(number):
    """Return the changes of order `number` of `ORDERS`, two bits each, the first one lowest."""
    left, order = 0b11100100, 0  # left: changes that are not placed yet, ascending
    for place in tl.static_range(4):
        ways = 6 if place == 0 else 2 if place == 1 else 1  # orders of the places after this one
        at = 2 * (number // ways)
        number = number % ways
        order |= (left >> at & 3) << 2 * place
        left = (left & (1 << at) - 1) | left >> at + 2 << at
    return order


@jit
def _gray(red, green, blue, LUMA: tl.constexpr):
    return red * LUMA[0] + green * LUMA[1] + blue * LUMA[2]


@jit
def _with_hue(place, high, chroma):
    """Return a channel; place: of the hue in sixths of a turn, offset by the channel's own."""
    place -= 6 * tl.floor(place * (1 / 6))
    return high - chroma * tl.minimum(tl.maximum(tl.minimum(place, 4 - place), 0), 1)


@jit
def _blend(x, other, factor):
    return tl.minimum(tl.maximum(factor * x + (1 - factor) * other, 0), 255)


@jit
def _change(red, green, blue, factors_ptr, order, places, mean, LUMA: tl.constexpr):
    """Make the first `places` changes of an order. mean: of the gray that contrast sees."""
    for place in range(places):
        change = order >> 2 * place & 3
        factor = tl.load(factors_ptr + change)
        if change == 3:
            high = tl.maximum(tl.maximum(red, green), blue)
            chroma = high - tl.minimum(tl.minimum(red, green), blue)
            part = tl.where(high == green, blue - red + 2 * chroma, red - green + 4 * chroma)
            part = tl.where(high == red, green - blue, part)
            sixths = part / tl.where(chroma > 0, chroma, 1) + 6 * factor
            red = _with_hue(sixths + 5, high, chroma)
            green = _with_hue(sixths + 3, high, chroma)
            blue = _with_hue(sixths + 1, high, chroma)
        else:
            other = tl.where(change == 1, mean, _gray(red, green, blue, LUMA))
            other = tl.where(change == 0, 0.0, other)
            red = _blend(red, other, factor)
            green = _blend(green, other, factor)
            blue = _blend(blue, other, factor)
    return red, green, blue


@jit
def _load(
    images_ptr,
    stride_b,
    stride_h,
    stride_w,
    stride_c,
    ids_ptr,
    sample,
    pixel,
    pixels,
    width,
    PATCH: tl.constexpr,
):
    """Load pixels of a sample, numbered [0, pixels), as three fp32 channels; beyond, black."""
    inside = pixel < pixels
    row, column = pixel // width, pixel % width
    if ids_ptr is not None:
        across, area = width // PATCH, PATCH * PATCH
        ids = ids_ptr + sample * (pixels // area) + pixel // area
        patch = tl.load(ids, mask=inside, other=0).to(tl.int32)
        row = patch // across * PATCH + pixel % area // PATCH
        column = patch % across * PATCH + pixel % PATCH
    start = sample * stride_b + row.to(tl.int64) * stride_h + column.to(tl.int64) * stride_w
    red = tl.load(images_ptr + start, mask=inside, other=0).to(tl.float32)
    green = tl.load(images_ptr + start + stride_c, mask=inside, other=0).to(tl.float32)
    blue = tl.load(images_ptr + start + 2 * stride_c, mask=inside, other=0).to(tl.float32)
    return red, green, blue


@jit
def _gray_sums_kernel(
    images_ptr,
    stride_b,
    stride_h,
    stride_w,
    stride_c,
    ids_ptr,
    factors_ptr,
    sums_ptr,
    pixels,
    width,
    chunks,
    PATCH: tl.constexpr,
    LUMA: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Sum the gray that contrast sees, after the changes before it: fp32 [B * chunks].

    See `_change_colors_kernel`. Where contrast's factor is 1, the pixels are not read.
    """
    sample = (tl.program_id(0) // chunks).to(tl.int64)
    factors_ptr += sample * 6
    total = 0.0
    if tl.load(factors_ptr + 1) != 1:
        pixel = tl.program_id(0) % chunks * CHUNK + tl.arange(0, CHUNK)
        red, green, blue = _load(
            images_ptr, stride_b, stride_h, stride_w, stride_c, ids_ptr, sample, pixel, pixels,
            width, PATCH,
        )  # fmt: skip
        order = _order(tl.load(factors_ptr + 4).to(tl.int32))
        before = 0
        for place in tl.static_range(1, 4):
            before = tl.where((order >> 2 * place & 3) == 1, place, before)
        # Black stays black before contrast: what is beyond the sample adds nothing.
        red, green, blue = _change(red, green, blue, factors_ptr, order, before, 0.0, LUMA)
        total = tl.sum(_gray(red, green, blue, LUMA), 0)
    tl.store(sums_ptr + tl.program_id(0), total)


@jit
def _change_colors_kernel(
    images_ptr,
    stride_b,
    stride_h,
    stride_w,
    stride_c,
    ids_ptr,
    factors_ptr,
    sums_ptr,
    scale_bias_ptr,
    out_ptr,
    pixels,
    width,
    chunks,
    PATCH: tl.constexpr,
    LUMA: tl.constexpr,
    CHUNK: tl.constexpr,
    CHUNKS: tl.constexpr,
):
    """out = changed colours of uint8 images, as bytes, or times scale plus bias by channel.

    out [B, pixels, 3], contiguous; factors fp32 [B, 6], contiguous. Grid: B * chunks programs of
    CHUNK pixels. ids [B, K] selects patches; None: whole images. scale_bias: fp32 [2, 3]; None:
    bytes. CHUNKS: the power of two from `chunks` on. Nothing is saved for backward.

    Contrast's mean comes from an earlier launch, as partial sums: one program for a whole sample
    would read its pixels twice as well, and a batch of 64 would use half of a GPU. Each channel is
    loaded and stored by itself: that is one in 20 of a thread's instructions, before loops.
    """
    sample = (tl.program_id(0) // chunks).to(tl.int64)
    factors_ptr += sample * 6
    pixel = tl.program_id(0) % chunks * CHUNK + tl.arange(0, CHUNK)
    red, green, blue = _load(
        images_ptr, stride_b, stride_h, stride_w, stride_c, ids_ptr, sample, pixel, pixels, width,
        PATCH,
    )  # fmt: skip
    part = tl.arange(0, CHUNKS)
    sums = tl.load(sums_ptr + sample * chunks + part, mask=part < chunks, other=0)
    order = _order(tl.load(factors_ptr + 4).to(tl.int32))
    mean = tl.sum(sums, 0) / pixels
    red, green, blue = _change(red, green, blue, factors_ptr, order, 4, mean, LUMA)
    if tl.load(factors_ptr + 5) > 0:
        red = _gray(red, green, blue, LUMA)
        green, blue = red, red
    if scale_bias_ptr is None:
        red, green, blue = red + 0.5, green + 0.5, blue + 0.5  # bytes are cut off
    else:
        red = red * tl.load(scale_bias_ptr) + tl.load(scale_bias_ptr + 3)
        green = green * tl.load(scale_bias_ptr + 1) + tl.load(scale_bias_ptr + 4)
        blue = blue * tl.load(scale_bias_ptr + 2) + tl.load(scale_bias_ptr + 5)
    out = out_ptr + (sample * pixels + pixel) * 3
    kind: tl.constexpr = out_ptr.dtype.element_ty
    tl.store(out, red.to(kind), mask=pixel < pixels)
    tl.store(out + 1, green.to(kind), mask=pixel < pixels)
    tl.store(out + 2, blue.to(kind), mask=pixel < pixels)


@torch.library.custom_op("fastimae::change_colors", mutates_args=())
def change_colors(
    images: Tensor,
    ids_keep: Tensor | None,
    factors: Tensor,
    patch_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype,
    triton_kernel: bool,
) -> Tensor:
    """Return changed colours [B, N, 3] of uint8 images [B, H, W, 3], or of patches ids_keep [B, K].

    factors: fp32 [B, 6]. dtype: uint8, or a float one, normalised by mean and std. With
    triton_kernel=False, the implementation for CPUs, which looks at the factors: the host would
    have to wait for a GPU's.
    """
    out = _empty_out(images, ids_keep, factors, patch_size, mean, std, dtype, triton_kernel)
    if not out.numel():
        return out
    table = None
    if dtype != torch.uint8:
        table = scale_and_bias(tuple(mean), tuple(std), 1, images.dtype, images.device)
    factors = factors.contiguous()
    if not triton_kernel:
        change_on_cpu(images, ids_keep, factors, patch_size, table, out)
        return out
    stride_b, stride_h, stride_w, stride_c = images.stride()
    pixels = out.shape[1]
    chunks = triton.cdiv(pixels, _CHUNK)
    sums = factors.new_empty(len(images) * chunks)
    common = {
        "images_ptr": images,
        "stride_b": stride_b,
        "stride_h": stride_h,
        "stride_w": stride_w,
        "stride_c": stride_c,
        "ids_ptr": None if ids_keep is None else ids_keep.contiguous(),
        "factors_ptr": factors,
        "sums_ptr": sums,
        "pixels": pixels,
        "width": images.shape[2],
        "chunks": chunks,
        "PATCH": patch_size,
        "LUMA": reference_colors.LUMA,
        "CHUNK": _CHUNK,
        "num_warps": _WARPS,
    }
    grid = (len(sums),)
    launch(_gray_sums_kernel, grid, **common)
    parts = triton.next_power_of_2(chunks)
    launch(
        _change_colors_kernel, grid, **common, scale_bias_ptr=table, out_ptr=out, CHUNKS=parts
    )  # fmt: skip
    return out


@change_colors.register_fake
def _empty_out(
    images: Tensor,
    ids_keep: Tensor | None,
    factors: Tensor,
    patch_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype,
    triton_kernel: bool,
) -> Tensor:
    pixels = images.shape[1] * images.shape[2]
    if ids_keep is not None:
        pixels = ids_keep.shape[1] * patch_size**2
    return images.new_empty((len(images), pixels, 3), dtype=dtype)
