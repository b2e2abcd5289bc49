"""Crops of images that are in memory: window, antialiased bicubic resize and flip, as Pillow's.

B = batch, H, W, C = rows, columns, channels of a crop.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastimae.kernels import reference_crops
from fastimae.kernels._crops_cpu import crop_on_cpu
from fastimae.kernels._launch import Impl, jit, launch, tl, triton, use_triton
from fastimae.kernels.pixel_store import PixelStore, check_crops
from fastimae.kernels.resize_taps import WEIGHT_BITS, AxisTaps, ResizeTaps

_BLOCK, _WARPS = 512, 4  # six programs for a crop of CIFAR: a small batch fills a GPU too


@jit
def _rounded(total, BITS: tl.constexpr):
    """Round a pass' sums: int32 to 0..255, fp64 to fp32."""
    if total.dtype == tl.int32:
        value = tl.minimum(tl.maximum((total + (1 << (BITS - 1))) >> BITS, 0), 255)
    else:
        value = total.to(tl.float32).to(tl.float64)
    return value


@jit
def _two_passes(
    pixel,
    inner_step,
    inner_taps,
    inner_weight,
    outer_step,
    outer_taps,
    outer_weight,
    INNER: tl.constexpr,
    OUTER: tl.constexpr,
    BITS: tl.constexpr,
):
    """Return the rounded sums over outer taps of the rounded sums over inner taps.

    pixel: pointers to the first taps, which are `step` values apart. weight: pointers to their
    weights, those of the next taps INNER or OUTER further.
    """
    total = tl.zeros(pixel.shape, outer_weight.dtype.element_ty)
    for outer in range(outer_taps):
        line = pixel + outer * outer_step
        between = tl.zeros(pixel.shape, inner_weight.dtype.element_ty)
        for inner in range(inner_taps):
            value = tl.load(line + inner * inner_step).to(between.dtype)
            between += value * tl.load(inner_weight + inner * INNER)
        total += _rounded(between, BITS) * tl.load(outer_weight + outer * OUTER)
    return _rounded(total, BITS)


@jit
def _crop_resize_kernel(
    pixels_ptr,
    start_ptr,
    width_ptr,
    index_ptr,
    window_ptr,
    flip_ptr,
    down_count_ptr,
    down_first_ptr,
    down_start_ptr,
    down_weights_ptr,
    across_count_ptr,
    across_first_ptr,
    across_start_ptr,
    across_weights_ptr,
    out_ptr,
    blocks,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    CHANNELS: tl.constexpr,
    BITS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """out[b] = window[b] of image index[b], resized along one axis, then the other, and mirrored.

    See `PixelStore` and `AxisTaps`; index [B], window [B, 4], flip [B], out [B, HEIGHT, WIDTH,
    CHANNELS], contiguous. Grid: B * blocks programs of BLOCK values. All taps are inside of the
    window, so no load is masked: what is beyond the crop repeats its last value.

    An output computes the values between the passes that it needs by itself. To share them would
    save about two thirds of the instructions at 224 x 224 from 375 x 500 (counted, not measured),
    which are few beside those of a model, but take a second launch and memory for a batch of the
    largest windows: which pass is the first differs from image to image.
    """
    image = (tl.program_id(0) // blocks).to(tl.int64)
    item = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    inside = item < HEIGHT * WIDTH * CHANNELS
    last = tl.minimum(item, HEIGHT * WIDTH * CHANNELS - 1)
    y, x, channel = last // (WIDTH * CHANNELS), last // CHANNELS % WIDTH, last % CHANNELS
    x = tl.where(tl.load(flip_ptr + image), WIDTH - 1 - x, x)

    index = tl.load(index_ptr + image)
    stride = tl.load(width_ptr + index).to(tl.int64) * CHANNELS
    top, left = tl.load(window_ptr + image * 4), tl.load(window_ptr + image * 4 + 1)
    high, wide = tl.load(window_ptr + image * 4 + 2), tl.load(window_ptr + image * 4 + 3)
    row = top + tl.load(down_first_ptr + high * HEIGHT + y)
    column = left + tl.load(across_first_ptr + wide * WIDTH + x)
    pixel = pixels_ptr + tl.load(start_ptr + index) + row * stride + column * CHANNELS + channel
    down, across = tl.load(down_count_ptr + high), tl.load(across_count_ptr + wide)
    down_weight = down_weights_ptr + tl.load(down_start_ptr + high) + y
    across_weight = across_weights_ptr + tl.load(across_start_ptr + wide) + x

    # Pillow's choice, which saves work on tall images.
    if (high > HEIGHT) & (high - HEIGHT > 2 * (wide - WIDTH)):
        value = _two_passes(
            pixel, stride, down, down_weight, CHANNELS, across, across_weight, HEIGHT, WIDTH, BITS
        )
    else:
        value = _two_passes(
            pixel, CHANNELS, across, across_weight, stride, down, down_weight, WIDTH, HEIGHT, BITS
        )
    if value.dtype == tl.float64:
        # To the nearest integer, halves to even: beyond 2^23 fp32 has no fractions.
        value = (value.to(tl.float32) + 12582912.0) - 12582912.0
        value = tl.minimum(tl.maximum(value, 0.0), 65535.0)
    out = out_ptr + image * (HEIGHT * WIDTH * CHANNELS) + item
    tl.store(out, value.to(out_ptr.dtype.element_ty), mask=inside)


@torch.library.custom_op("fastimae::crop_resize", mutates_args=())
def _crop_resize(
    pixels: Tensor,
    start: Tensor,
    height: Tensor,
    width: Tensor,
    channels: int,
    index: Tensor,
    window: Tensor,
    flip: Tensor,
    down: Sequence[Tensor],
    across: Sequence[Tensor],
    triton_kernel: bool,
) -> Tensor:
    """Make crops. down, across: the tensors of an `AxisTaps`.

    With triton_kernel=False, the implementation for CPUs, which looks at the windows: the host
    would have to wait for a GPU's.
    """
    store = PixelStore(pixels, start, height, width, channels)
    if not triton_kernel:
        axes = (AxisTaps(*axis, most=int(axis[0].max())) for axis in (down, across))
        return crop_on_cpu(store, index, window, flip, ResizeTaps(*axes))
    out = _empty_crops(*store, index, window, flip, down, across, triton_kernel)
    if out.numel():
        blocks = triton.cdiv(out[0].numel(), _BLOCK)
        parts = [name for name in AxisTaps._fields if name != "most"]
        launch(
            _crop_resize_kernel,
            (len(out) * blocks,),
            fuse=False,
            pixels_ptr=pixels,
            start_ptr=start.contiguous(),
            width_ptr=width.contiguous(),
            index_ptr=index.contiguous(),
            window_ptr=window.contiguous(),
            flip_ptr=flip.contiguous(),
            **{f"down_{name}_ptr": part for name, part in zip(parts, down, strict=True)},
            **{f"across_{name}_ptr": part for name, part in zip(parts, across, strict=True)},
            out_ptr=out,
            blocks=blocks,
            HEIGHT=out.shape[1],
            WIDTH=out.shape[2],
            CHANNELS=channels,
            BITS=WEIGHT_BITS,
            BLOCK=_BLOCK,
            num_warps=_WARPS,
        )
    return out


@_crop_resize.register_fake
def _empty_crops(
    pixels: Tensor,
    start: Tensor,
    height: Tensor,
    width: Tensor,
    channels: int,
    index: Tensor,
    window: Tensor,
    flip: Tensor,
    down: Sequence[Tensor],
    across: Sequence[Tensor],
    triton_kernel: bool,
) -> Tensor:
    size = down[1].shape[1], across[1].shape[1]
    return pixels.new_empty((len(index), *size, channels))


def crop_resize(
    store: PixelStore,
    index: Tensor,
    window: Tensor,
    flip: Tensor,
    taps: ResizeTaps,
    *,
    impl: Impl = "auto",
) -> Tensor:
    """Crop images of a store to windows, resize and mirror them: bit-equal to the loaders' crops.

    index: int64 [B], of images. window: int32 [B, 4], (top, left, height, width), inside the image
    and no longer than `taps` are for. flip: bool [B], mirror left to right. taps: of
    `resize_taps`, for the dtype of the store. impl: "triton", "torch", or "auto" for the faster
    available.

    Returns [B, H, W, C] of the store's dtype, as Pillow 13's `resize` with BICUBIC has it: uint8 in
    its integer arithmetic, uint16 as mode F, rounded to even. Where a window has the size of the
    crop, its pixels are copied.
    Raises ValueError or TypeError that names the argument that does not fit, and if impl="triton"
    cannot run. Values of index and window are not checked.
    """
    check_crops(store, index, window, flip, taps)
    by_triton = use_triton("crop_resize", impl, store.pixels)
    if store.pixels.is_cuda and not by_triton:
        return reference_crops.crop_resize(store, index, window, flip, taps)
    axes = (list(axis[:-1]) for axis in taps)  # without `most`
    return _crop_resize(*store, index, window, flip, *axes, by_triton)
