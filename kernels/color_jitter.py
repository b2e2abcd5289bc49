"""Colour jitter as SimSiam has it: how the colours of a sample change, and images so changed.

B = batch, H, W = image rows, columns.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastimae.kernels import reference_colors
from fastimae.kernels._colors import change_colors
from fastimae.kernels._launch import Impl, jit, launch, tl, triton, use_triton
from fastimae.kernels.checks import check_jitter, check_key

_BLOCK, _WARPS = 128, 4  # one key per thread, as in mixing_ratio


@jit
def _jitter_factors_kernel(
    key_ptr,
    key_stride,
    factors_ptr,
    count,
    view,
    low,
    width,
    turns,
    gray,
    STREAM: tl.constexpr,
    JITTERED: tl.constexpr,
    ORDERS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """factors = low + share * width, three of them; shift in +- turns; order; share < gray.

    key [count]; factors fp32 [count, 6], contiguous. Grid: blocks of BLOCK keys. A view takes two
    Philox blocks of four words. A share has the upper 24 bits of a word: none is rounded.
    """
    item = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = item < count
    key = tl.load(key_ptr + item.to(tl.int64) * key_stride, mask=inside, other=0)
    zero = tl.zeros((BLOCK,), tl.int32)
    block = zero + 2 * view
    words = tl.philox(key, block, zero, zero, zero + STREAM)
    order, applied, grayed, _ = tl.philox(key, block + 1, zero, zero, zero + STREAM)
    jittered = (applied >> 8).to(tl.float32) * 2.0**-24 < JITTERED
    out = factors_ptr + item.to(tl.int64) * 6
    for change in tl.static_range(3):
        share = (words[change] >> 8).to(tl.float32) * 2.0**-24
        tl.store(out + change, tl.where(jittered, share * width + low, 1), mask=inside)
    share = (words[3] >> 8).to(tl.float32) * 2.0**-24
    tl.store(out + 3, tl.where(jittered, share * (2 * turns) - turns, 0), mask=inside)
    tl.store(out + 4, ((order >> 8) * ORDERS >> 24).to(tl.float32), mask=inside)
    share = (grayed >> 8).to(tl.float32) * 2.0**-24
    tl.store(out + 5, (share < gray).to(tl.float32), mask=inside)


@torch.library.custom_op("fastimae::jitter_factors", mutates_args=())
def _jitter_factors(key: Tensor, strength: float, view: int) -> Tensor:
    factors = _empty_factors(key, strength, view)
    low = max(1 - strength, 0.0)
    if len(key):
        launch(
            _jitter_factors_kernel,
            (triton.cdiv(len(key), _BLOCK),),
            key_ptr=key,
            key_stride=key.stride(0),
            factors_ptr=factors,
            count=len(key),
            view=view,
            low=low,
            width=1 + strength - low,
            turns=strength * reference_colors.HUE,
            gray=reference_colors.GRAY if strength else 0.0,
            STREAM=reference_colors.JITTER_STREAM,
            JITTERED=reference_colors.JITTERED,
            ORDERS=len(reference_colors.ORDERS),
            BLOCK=_BLOCK,
            num_warps=_WARPS,
        )
    return factors


@_jitter_factors.register_fake
def _empty_factors(key: Tensor, strength: float, view: int) -> Tensor:
    return key.new_empty((len(key), 6), dtype=torch.float32)


def jitter_factors(key: Tensor, strength: float, *, view: int = 0, impl: Impl = "auto") -> Tensor:
    """Draw how the colours of each sample change (C-MAE, section 3; SimSiam's augmentation).

    key: int64 [B], any strides; equal keys draw equal factors. strength: brightness, contrast and
    saturation change by factors of 1 +- strength, none below 0, the hue by up to a quarter of
    strength, in 80 % of the samples; 20 % turn gray. 0: no change. view: views of a sample are
    jittered independently. impl: "triton", "torch", or "auto" for the faster available.

    Returns fp32 [B, 6]: factors of brightness, contrast and saturation, shift of the hue in turns,
    the number of the order in `reference_colors.ORDERS`, and 1 for gray. Order and gray are the
    same on every device and with every implementation, the others up to rounding.
    Raises ValueError for other keys, a negative strength or view, and if impl="triton" cannot run.
    """
    check_key(key)
    if strength < 0 or view < 0:
        raise ValueError(f"strength {strength} and view {view} of colour jitter must not be < 0")
    if use_triton("jitter_factors", impl, key):
        return _jitter_factors(key, float(strength), view)
    return reference_colors.jitter_factors(key, strength, view)


def color_jitter(images: Tensor, factors: Tensor, *, impl: Impl = "auto") -> Tensor:
    """Change the colours of images, as torchvision's ColorJitter and RandomGrayscale do.

    images: uint8 [B, H, W, 3], any strides. factors: fp32 [B, 6], of `jitter_factors`: the changes
    in their order, clamped after each, then gray. impl: "triton", "torch", or "auto" for the faster
    available.

    Returns uint8 [B, H, W, 3], rounded once, at the end.
    Raises ValueError or TypeError that names the argument that does not fit, such as float images
    or other than three channels, and if impl="triton" cannot run.
    """
    check_jitter(images, factors)
    by_triton = use_triton("color_jitter", impl, images, factors)
    if images.is_cuda and not by_triton:
        return reference_colors.color_jitter(images, factors)
    changed = change_colors(images, None, factors, 1, (), (), torch.uint8, by_triton)
    return changed.view(images.shape)
