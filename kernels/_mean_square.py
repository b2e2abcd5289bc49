"""Means of squared differences, one for each branch: the parts that the losses share.

n = branches: equal, consecutive parts of the first axis, each with its own mean.
S = elements of a branch, B = images, M = rows of an image. `latent_l2`, `masked_l2` and `pair_l2`
prepare the gradient in the forward pass: they save the difference, and backward only scales it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastimae.kernels._launch import jit, launch, tl, triton

BLOCK = 2048  # 16 elements per thread: two 16-byte loads of each bf16 tensor in flight
WARPS = 4


@jit
def _scale_kernel(
    difference_ptr, grad_ptr, factor, out_ptr, negative_ptr, size, blocks, BLOCK: tl.constexpr
):
    """out = difference * (grad * factor), one grad a branch, and negative = -out.

    difference, out, negative: [n, size], contiguous, of one dtype; negative may be None. grad:
    fp32 [n]. The product is fp32: the scale alone would underflow in fp16. Grid: (n * blocks,).
    """
    program = tl.program_id(0)
    branch = (program // blocks).to(tl.int64)
    column = (program % blocks).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = column < size
    scale = tl.load(grad_ptr + branch) * factor
    difference = tl.load(difference_ptr + branch * size + column, mask=inside, other=0)
    scaled = difference.to(tl.float32) * scale
    tl.store(out_ptr + branch * size + column, scaled.to(out_ptr.dtype.element_ty), mask=inside)
    if negative_ptr is not None:
        negative = (-scaled).to(out_ptr.dtype.element_ty)
        tl.store(negative_ptr + branch * size + column, negative, mask=inside)


@torch.library.custom_op("fastimae::scale_branches", mutates_args=())
def scale_branches(difference: Tensor, grad: Tensor) -> Tensor:
    """Return the gradient of n means of squares: difference * 2 * grad / S, by branch.

    difference: contiguous, its first axis n equal parts. grad: [n], any strides. The result has
    the shape and dtype of difference.
    """
    out = torch.empty_like(difference)
    _fill_gradients(difference, grad, out, None)
    return out


@torch.library.custom_op("fastimae::scale_pairs", mutates_args=())
def scale_pairs(difference: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Return what `scale_branches` does, and its negative: both sides of a difference."""
    out, negative = torch.empty_like(difference), torch.empty_like(difference)
    _fill_gradients(difference, grad, out, negative)
    return out, negative


def _fill_gradients(difference: Tensor, grad: Tensor, out: Tensor, negative: Tensor | None) -> None:
    if not out.numel():
        return
    size = difference.numel() // len(grad)
    blocks = triton.cdiv(size, BLOCK)
    launch(
        _scale_kernel,
        (len(grad) * blocks,),
        difference_ptr=difference,
        grad_ptr=grad.float().contiguous(),
        factor=2 / size,
        out_ptr=out,
        negative_ptr=negative,
        size=size,
        blocks=blocks,
        BLOCK=BLOCK,
        num_warps=WARPS,
    )


@scale_branches.register_fake
def _(difference: Tensor, grad: Tensor) -> Tensor:
    return torch.empty_like(difference)


@scale_pairs.register_fake
def _(difference: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(difference), torch.empty_like(difference)


def kept_weight(kept: Tensor) -> Tensor:
    """Return fp32 [B], by which a mean over all M rows becomes one over those in kept, bool [B, M].

    An image without such rows has a sum of 0, whatever its weight.
    """
    return kept.shape[1] / kept.sum(1).clamp(min=1)


def keep_difference(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    """Save what follows an op's loss, its unscaled difference first: a setup_context."""
    ctx.save_for_backward(*output[1:])
    ctx.set_materialize_grads(False)


class MeanSquare(torch.autograd.Function):
    """fp32 [n], the mean of (x - target)^2 over each branch of x, in torch.

    kept: bool, where the difference counts; it is 0 elsewhere. None: everywhere. The gradient
    reaches x, and target if it requires one.

    Asking for a second derivative is an error, as it is with the Triton kernels: backward would
    treat the saved difference as a constant.
    """

    @staticmethod
    def forward(ctx, x: Tensor, target: Tensor, branches: int, kept: Tensor | None) -> Tensor:
        difference = x.float() - target.float()
        if kept is not None:
            difference = difference.masked_fill(~kept, 0)
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(difference.to(x.dtype))
        return difference.square().reshape(branches, -1).mean(1)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            raise RuntimeError("this loss has no second derivative: leave out create_graph")
        (difference,) = ctx.saved_tensors
        rows = difference.reshape(len(grad), -1)
        scale = grad.float()[:, None] * (2 / max(rows.shape[1], 1))
        scaled = (rows * scale).to(difference.dtype).view_as(difference)
        return scaled, -scaled if ctx.needs_input_grad[1] else None, None, None
