"""Mean squared distance of two predictions, with gradients to both from one saved difference.

B = images, M = rows of an image, D = values of a row. R = parts that have a mean of their own: the
images where rows are left out, and otherwise all of them together.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastimae.kernels._launch import Impl, jit, launch, tl, triton, use_triton
from fastimae.kernels._mean_square import BLOCK, WARPS, MeanSquare, kept_weight, scale_pairs
from fastimae.kernels.checks import check_pair


@jit
def _pair_kernel(
    first_ptr,
    second_ptr,
    kept_ptr,
    difference_ptr,
    sums_ptr,
    size,
    blocks,
    width,
    BLOCK: tl.constexpr,
):
    """difference = first - second, 0 in rows that do not count, and the sum of its squares.

    first, second: [R, size], contiguous. kept: uint8 [R, size / width], 0 for rows of `width`
    values that do not count; None if all do. difference: as first, for backward, or None where no
    gradient is needed. sums: fp32 [R, blocks], one for each block. Grid: (R * blocks,).
    """
    program = tl.program_id(0)
    part = (program // blocks).to(tl.int64)
    column = (program % blocks).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = column < size
    first = tl.load(first_ptr + part * size + column, mask=inside, other=0)
    second = tl.load(second_ptr + part * size + column, mask=inside, other=0)
    difference = first.to(tl.float32) - second.to(tl.float32)
    if kept_ptr is not None:
        row = part * (size // width) + column // width
        counts = tl.load(kept_ptr + row, mask=inside, other=0) != 0
        difference = tl.where(counts, difference, 0.0)
    tl.store(sums_ptr + program, tl.sum(difference * difference))
    if difference_ptr is not None:
        emitted = difference.to(difference_ptr.dtype.element_ty)
        tl.store(difference_ptr + part * size + column, emitted, mask=inside)


@torch.library.custom_op("fastimae::pair_l2", mutates_args=())
def _pair_l2(
    first: Tensor, second: Tensor, kept: Tensor | None, weight: Tensor, save: bool
) -> tuple[Tensor, Tensor]:
    """Return the loss, fp32 [1], and first - second, which is empty unless `save`.

    weight: fp32 [R], of each part's mean over all of its values.
    """
    loss, difference = _empty_outputs(first, second, kept, weight, save)
    parts, size = len(weight), first.numel() // len(weight)
    if not size:
        return loss.fill_(torch.nan), difference
    blocks = triton.cdiv(size, BLOCK)
    sums = first.new_empty(parts, blocks, dtype=torch.float32)
    launch(
        _pair_kernel,
        (sums.numel(),),
        first_ptr=first.contiguous(),
        second_ptr=second.contiguous(),
        kept_ptr=None if kept is None else kept.contiguous().view(torch.uint8),
        difference_ptr=difference if save else None,
        sums_ptr=sums,
        size=size,
        blocks=blocks,
        width=first.shape[2],
        BLOCK=BLOCK,
        num_warps=WARPS,
    )
    total = (sums.sum(1) * weight).sum(0, keepdim=True)
    torch.div(total, first.numel(), out=loss)
    return loss, difference


@_pair_l2.register_fake
def _empty_outputs(first: Tensor, *rest: object) -> tuple[Tensor, Tensor]:
    *_, save = rest
    loss = first.new_empty(1, dtype=torch.float32)
    return loss, first.new_empty(first.shape if save else 0)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[1], inputs[3])
    ctx.set_materialize_grads(False)


def _backward(ctx, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    difference, weight = ctx.saved_tensors
    return *scale_pairs(difference, grad * weight / len(weight)), None, None, None


_pair_l2.register_autograd(_backward, setup_context=_keep)


def pair_l2(
    first: Tensor, second: Tensor, *, kept: Tensor | None = None, impl: Impl = "auto"
) -> Tensor:
    """Compute the mean squared distance of two predictions (occlusion-invariant MIM, equation 5).

    first, second: [B, M, D], of one float dtype and any strides; the gradient reaches both, 2 d / n
    and its negative, in that dtype. kept: bool [B, M], the rows that count; None: all do. impl:
    "auto" uses Triton on CUDA and torch elsewhere.

    Returns a fp32 scalar: with `kept` the mean over images of the mean over each one's rows that
    count (0 if it has none), so that equal batches average to one large batch; NaN if first is
    empty. Raises ValueError for unequal shapes, dtypes or devices.
    """
    check_pair(first, second, kept)
    if not first.numel():
        kept = None  # there are no images to have means of their own
    weight = first.new_ones(1, dtype=torch.float32) if kept is None else kept_weight(kept)
    if use_triton("pair_l2", impl, first, second):
        save = torch.is_grad_enabled() and (first.requires_grad or second.requires_grad)
        return _pair_l2(first, second, kept, weight, save)[0].view(())
    rows = None if kept is None else kept[..., None]
    return (MeanSquare.apply(first, second, len(weight), rows) * weight).mean()
