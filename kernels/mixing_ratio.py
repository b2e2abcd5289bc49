"""The share of each image in a mixture, drawn as a function of a key alone.

B = batch. The distribution of the weight is given by its quantiles; a Philox word of the key picks
a position between them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastimae.kernels import reference
from fastimae.kernels._launch import Impl, jit, launch, tl, triton, use_triton
from fastimae.kernels.checks import check_device, check_key

_BITS = 12
LEVELS = 2**_BITS
"""Steps of the table of quantiles, which has one more entry."""
_BLOCK, _WARPS = 128, 4  # one key per thread: batches are small, and a draw is a chain of products


@jit
def _mixing_ratio_kernel(
    key_ptr,
    key_stride,
    quantiles_ptr,
    out_ptr,
    count,
    STREAM: tl.constexpr,
    BITS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """out = min(lambda, 1 - lambda), lambda linear between two of the 2^BITS + 1 quantiles.

    key [count]; quantiles and out fp32, contiguous. Grid: blocks of BLOCK keys. The upper BITS of
    a word are the number of the lower quantile, the other bits the position between it and the
    upper one: neither is rounded.
    """
    item = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = item < count
    key = tl.load(key_ptr + item.to(tl.int64) * key_stride, mask=inside, other=0)
    zero = tl.zeros((BLOCK,), tl.int32)
    word, _, _, _ = tl.philox(key, zero, zero, zero, zero + STREAM)
    low = (word >> (32 - BITS)).to(tl.int32)
    share = (word & ((1 << (32 - BITS)) - 1)).to(tl.float32) * (1 / (1 << (32 - BITS)))
    lower, upper = tl.load(quantiles_ptr + low), tl.load(quantiles_ptr + low + 1)
    step = upper - lower
    # Computed from the nearer of the two, as torch.lerp does.
    drawn = tl.where(share < 0.5, lower + share * step, upper - (1 - share) * step)
    tl.store(out_ptr + item, tl.minimum(drawn, 1 - drawn), mask=inside)


@torch.library.custom_op("fastimae::mixing_ratio", mutates_args=())
def _mixing_ratio(key: Tensor, quantiles: Tensor) -> Tensor:
    out = _empty_out(key, quantiles)
    if len(key):
        launch(
            _mixing_ratio_kernel,
            (triton.cdiv(len(key), _BLOCK),),
            key_ptr=key,
            key_stride=key.stride(0),
            quantiles_ptr=quantiles.contiguous(),
            out_ptr=out,
            count=len(key),
            STREAM=reference.MIXING_STREAM,
            BITS=_BITS,
            BLOCK=_BLOCK,
            num_warps=_WARPS,
        )
    return out


@_mixing_ratio.register_fake
def _empty_out(key: Tensor, quantiles: Tensor) -> Tensor:
    return quantiles.new_empty(len(key))


def mixing_ratio(key: Tensor, quantiles: Tensor, *, impl: Impl = "auto") -> Tensor:
    """Draw the subordinate image's weight s = min(lambda, 1 - lambda) (i-MAE, section 3.1).

    key: int64 [B], one per mixture, any strides; equal keys draw equal weights. quantiles: fp32
    [4097], the quantiles of lambda at 0, 1/4096, ..., 1: `torch.linspace(0, 1, 4097)` if it is
    uniform. impl: "triton", "torch", or "auto" for the faster available.

    Returns fp32 [B], in [0, 0.5]. A key draws the same position between the same two quantiles on
    every device and with every implementation; the interpolated value may differ in rounding.
    Raises ValueError for other keys or quantiles, and if impl="triton" cannot run.
    """
    if quantiles.shape != (LEVELS + 1,) or quantiles.dtype != torch.float32:
        raise ValueError(
            f"mixing_ratio: quantiles must be float32 [{LEVELS + 1}], "
            f"not {quantiles.dtype} {list(quantiles.shape)}"
        )
    check_key(key)
    check_device(key=key, quantiles=quantiles)
    if use_triton("mixing_ratio", impl, key, quantiles):
        return _mixing_ratio(key, quantiles)
    return reference.mixing_ratio(key, quantiles)
