"""Normalised visible patches of images whose colours change after masking.

B = batch, H, W = image rows, columns, P = patch size, K = visible patches. The pixels of a patch
are ordered (row, column, channel).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastimae.kernels import reference_colors
from fastimae.kernels._colors import change_colors
from fastimae.kernels._launch import Impl, use_triton
from fastimae.kernels.checks import DtypeError, check_images, check_jitter, check_visible
from fastimae.kernels.mix_patchify import OUT_DTYPES


def jitter_patchify(
    images: Tensor,
    ids_keep: Tensor,
    factors: Tensor,
    patch_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    dtype: torch.dtype = torch.float32,
    impl: Impl = "auto",
) -> Tensor:
    """Extract visible patches, change their colours, and normalise them (C-MAE, section 3).

    images: uint8 [B, H, W, 3], any strides. ids_keep: int32 or int64 [B, K], patch numbers in
    [0, L), which the caller must ensure: see `checks`. factors: fp32 [B, 6], of `jitter_factors`.
    The mean that contrast refers to is that of the visible patches: they are jittered after
    masking, and nothing of the others is seen. patch_size: P, pixels. impl: "triton", "torch", or
    "auto" for the faster available.

    Returns `dtype` [B, K, P*P*3], normalised to (x / 255 - mean) / std by channel, not rounded to
    bytes before. Raises ValueError or TypeError that names the argument that does not fit.
    """
    check_jitter(images, factors)
    check_images(images, patch_size, mean, std)
    check_visible(images, ids_keep, patch_size)
    if dtype not in OUT_DTYPES:
        raise DtypeError(f"dtype must be float32, bfloat16 or float16, not {dtype}")
    by_triton = use_triton("jitter_patchify", impl, images, ids_keep, factors)
    args = (images, ids_keep, factors, patch_size, mean, std)
    if images.is_cuda and not by_triton:
        return reference_colors.jitter_patchify(*args).to(dtype)
    changed = change_colors(*args, dtype, by_triton)
    return changed.view(*ids_keep.shape, 3 * patch_size**2)
