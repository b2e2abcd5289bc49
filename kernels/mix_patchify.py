"""Normalised visible patches of images, alone or mixed with those of a partner image.

B = batch, H, W, C = image rows, columns, channels, P = patch size, L = patches of an image,
K = visible patches, D = P*P*C pixels of a patch, in the order (row, column, channel).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastimae.kernels._launch import Impl, jit, launch, tl, triton, use_triton
from fastimae.kernels._pixels import (
    dense_rows,
    gather_patches,
    normalise,
    pixel_offsets,
    scale_and_bias,
)
from fastimae.kernels.checks import DtypeError, check_images, check_mixture

OUT_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@jit
def _mix_patchify_kernel(
    images_ptr,
    stride_b,
    stride_h,
    stride_w,
    stride_c,
    ids_ptr,
    scale_bias_ptr,
    partner_ptr,
    alpha_ptr,
    mixed_ptr,
    own_ptr,
    other_ptr,
    tokens,
    keep,
    across,
    PATCH: tl.constexpr,
    CHANNELS: tl.constexpr,
    DENSE: tl.constexpr,
    UNIT: tl.constexpr,
    PARTS: tl.constexpr,
    CHUNKS: tl.constexpr,
    VECTOR: tl.constexpr,
):
    """own = images[b] * scale + bias, mixed = alpha[b] * own + (1 - alpha[b]) * other.

    A token is a row of the outputs, [tokens = B * keep, P*P*C]. It is cut into PARTS of equal
    length, and these into chunks of VECTOR pixels. Grid: the chunks of all first parts, CHUNKS per
    program, one per thread; a thread also handles the same chunk of the other parts, so that ids,
    addresses, scale and bias serve PARTS * VECTOR pixels.
    stride_b and stride_h are in units of UNIT elements (see `pixel_offsets`).
    May be None: scale_bias for float images; partner, alpha, mixed and other without a partner; own
    and other where only mixtures are wanted. Nothing is saved for backward.
    """
    PART: tl.constexpr = PATCH * PATCH * CHANNELS // PARTS
    STEPS: tl.constexpr = PART // VECTOR
    first = tl.program_id(0).to(tl.int64) * CHUNKS
    chunk = (first % STEPS).to(tl.int32) + tl.arange(0, CHUNKS)[:, None]
    # The launcher ensures tokens < 2^31: 64-bit division would cost more than everything else.
    token = (first // STEPS).to(tl.int32) + chunk // STEPS
    valid = token < tokens
    sample = token // keep
    patch = tl.load(ids_ptr + token, mask=valid, other=0)
    pixel = chunk % STEPS * VECTOR + tl.arange(0, VECTOR)[None, :]
    own_start = sample.to(tl.int64) * stride_b * UNIT
    if partner_ptr is not None:
        other_start = tl.load(partner_ptr + sample, mask=valid, other=0) * stride_b * UNIT
        alpha = tl.load(alpha_ptr + sample, mask=valid, other=0).to(tl.float32)

    # All loads come before the first store, as the compiler cannot move loads across stores.
    own, other = (), ()
    for part in tl.static_range(PARTS):
        inner = pixel_offsets(
            patch,
            pixel + part * PART,
            across,
            stride_h,
            stride_w,
            stride_c,
            PATCH=PATCH,
            CHANNELS=CHANNELS,
            DENSE=DENSE,
            UNIT=UNIT,
        )
        own += (tl.load(images_ptr + (own_start + inner), mask=valid, other=0),)
        if partner_ptr is not None:
            other += (tl.load(images_ptr + (other_start + inner), mask=valid, other=0),)
    if scale_bias_ptr is not None:
        # The table's row applies to all rows of a patch, and so to all parts.
        place = pixel % (PATCH * CHANNELS)
        scale = tl.load(scale_bias_ptr + place)
        bias = tl.load(scale_bias_ptr + PATCH * CHANNELS + place)

    out = token.to(tl.int64) * (PART * PARTS) + pixel
    for part in tl.static_range(PARTS):
        x = own[part].to(tl.float32)
        if scale_bias_ptr is not None:
            x = x * scale + bias
        if own_ptr is not None:
            tl.store(own_ptr + out, x.to(own_ptr.dtype.element_ty), mask=valid)
        if partner_ptr is not None:
            y = other[part].to(tl.float32)
            if scale_bias_ptr is not None:
                y = y * scale + bias
            mixed = alpha * x + (1 - alpha) * y
            tl.store(mixed_ptr + out, mixed.to(mixed_ptr.dtype.element_ty), mask=valid)
            if own_ptr is not None:
                tl.store(other_ptr + out, y.to(other_ptr.dtype.element_ty), mask=valid)
        out += PART


class LaunchShape(NamedTuple):
    """How a launch divides the outputs: see the kernel's docstring."""

    parts: int
    chunks: int
    vector: int


def launch_shape(patch_size: int, channels: int, dense: bool, item_size: int) -> LaunchShape:
    """Choose the launch for images of `item_size` bytes per value.

    Eight bf16 results per thread make a 16-byte store, but eight bytes are a short load and too few
    to share the address arithmetic, so a token of bytes is cut into parts of whole rows.
    """
    pixels = patch_size * patch_size * channels
    vector = min(8, pixels & -pixels)
    parts = [d for d in range(2, 9) if patch_size % d == 0 and pixels // d % vector == 0]
    return LaunchShape(parts[0] if parts and dense and item_size == 1 else 1, 128, vector)


@torch.library.custom_op("fastimae::mix_patchify", mutates_args=())
def _mix_patchify_op(
    images: Tensor,
    ids_keep: Tensor,
    patch_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    partner: Tensor | None,
    alpha: Tensor | None,
    clean: bool,
    dtype: torch.dtype,
) -> list[Tensor]:
    outputs = _outputs(images, ids_keep, patch_size, mean, std, partner, alpha, clean, dtype)
    tokens, channels = ids_keep.numel(), images.shape[3]
    if tokens == 0:
        return outputs
    if tokens >= 2**31:
        raise ValueError(f"ids_keep has {tokens} entries, and at most 2^31 - 1 are supported")
    stride_b, stride_h, stride_w, stride_c = images.stride()
    statistics = tuple(mean), tuple(std)
    table = scale_and_bias(*statistics, patch_size, images.dtype, images.device)
    dense = dense_rows(images)
    unit = math.gcd(stride_b, stride_h, 16)
    parts, chunks, vector = launch_shape(patch_size, channels, dense, images.element_size())
    no_mixture = (None,) if partner is None else ()
    mixed, own, other = (*no_mixture, *outputs, None, None)[:3]
    launch(
        _mix_patchify_kernel,
        (triton.cdiv(outputs[0].numel(), parts * vector * chunks),),
        images_ptr=images,
        stride_b=stride_b // unit,
        stride_h=stride_h // unit,
        stride_w=stride_w,
        stride_c=stride_c,
        ids_ptr=ids_keep.contiguous(),
        scale_bias_ptr=table,
        partner_ptr=None if partner is None else partner.contiguous(),
        alpha_ptr=None if alpha is None else alpha.contiguous(),
        mixed_ptr=mixed,
        own_ptr=own,
        other_ptr=other,
        tokens=tokens,
        keep=ids_keep.shape[1],
        across=images.shape[2] // patch_size,
        PATCH=patch_size,
        CHANNELS=channels,
        DENSE=dense,
        UNIT=unit,
        PARTS=parts,
        CHUNKS=chunks,
        VECTOR=vector,
        num_warps=chunks // 32,
    )
    return outputs


@_mix_patchify_op.register_fake
def _outputs(
    images: Tensor,
    ids_keep: Tensor,
    patch_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    partner: Tensor | None,
    alpha: Tensor | None,
    clean: bool,
    dtype: torch.dtype,
) -> list[Tensor]:
    """Allocate the outputs: (own,), (mixed, own, other) or (mixed,)."""
    shape = (*ids_keep.shape, patch_size * patch_size * images.shape[3])
    streams = 3 if partner is not None and clean else 1
    return [images.new_empty(shape, dtype=dtype) for _ in range(streams)]


def _mix_patchify_torch(
    images: Tensor,
    ids_keep: Tensor,
    patch_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    partner: Tensor | None,
    alpha: Tensor | None,
    clean: bool,
    dtype: torch.dtype,
) -> tuple[Tensor, ...]:
    images = images.contiguous()  # otherwise each gather would copy them
    own_BKD = normalise(gather_patches(images, ids_keep, patch_size), mean, std)
    if partner is None:
        return (own_BKD.to(dtype),)
    other_BKD = normalise(gather_patches(images, ids_keep, patch_size, partner), mean, std)
    mixed_BKD = torch.lerp(other_BKD, own_BKD, alpha.float()[:, None, None])
    streams = (mixed_BKD, own_BKD, other_BKD) if clean else (mixed_BKD,)
    return tuple(stream.to(dtype) for stream in streams)


def mix_patchify(
    images: Tensor,
    ids_keep: Tensor,
    patch_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    partner: Tensor | None = None,
    alpha: Tensor | None = None,
    *,
    clean: bool = True,
    dtype: torch.dtype = torch.float32,
    impl: Impl = "auto",
) -> tuple[Tensor, ...]:
    """Extract visible patches of images or, with a partner, of mixtures (i-MAE, section 3.1).

    images: uint8 or uint16 [B, H, W, C], normalised here to (x / full - mean) / std by channel,
    with full = 255 or 65535; or float32, bfloat16, float16, treated as normalised. Any strides
    (pass NCHW images as `images.permute(0, 2, 3, 1)`); rows whose W*C values are contiguous are
    read fastest. ids_keep: int32 or int64 [B, K], patch numbers in [0, L). partner: int64 [B], the
    image in [0, B) that is mixed into each. The caller must ensure both ranges: see `checks`.
    patch_size: P, pixels. alpha: float [B], weight of the image itself; its partner has 1 - alpha.
    clean: with a partner, also return the unmixed patches, for a teacher. impl: "auto" uses Triton
    on CUDA and torch elsewhere.

    Returns `dtype` [B, K, P*P*C] each: (clean,) without partner, (mixed, clean, clean partner)
    with one, or (mixed,) with one and clean=False. The torch implementation is differentiable in
    float images and alpha, and "auto" uses it where either requires a gradient.
    Raises ValueError or TypeError that names the argument that does not fit.
    """
    check_images(images, patch_size, mean, std)
    check_mixture(images, ids_keep, patch_size, partner, alpha)
    if dtype not in OUT_DTYPES:
        raise DtypeError(f"dtype must be float32, bfloat16 or float16, not {dtype}")
    tensors = [x for x in (images, ids_keep, partner, alpha) if x is not None]
    needs_grad = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
    obstacle = "images or alpha require a gradient" if needs_grad else ""
    args = (images, ids_keep, patch_size, mean, std, partner, alpha, clean, dtype)
    if use_triton("mix_patchify", impl, *tensors, obstacle=obstacle):
        return tuple(_mix_patchify_op(*args))
    return _mix_patchify_torch(*args)
