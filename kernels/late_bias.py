"""Late biases: the op after a linear layer computes the gradient of the layer's bias.

That gradient is the column sums of the gradient of the layer's output, which the next op computes
and has in registers; torch would read all of it once more. So the layer adds `bias.detach()`, and
the next op takes the bias as an argument whose value it ignores but to which it gives a gradient.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastimae.kernels._launch import jit, launch, tl, triton

_ROWS, _COLUMNS = 128, 16  # 64 bytes of a row, 16 loads per thread in flight


@jit
def _column_sums_kernel(
    partial_ptr, out_ptr, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """out[c] = sum of partial[:, c], always added in the same order.

    partial: fp32 [rows, columns], contiguous. out: [columns]. Grid: (columns / COLUMNS,).
    """
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, rows, ROWS):
        row = start + tl.arange(0, ROWS)
        total += tl.load(
            partial_ptr + row.to(tl.int64)[:, None] * columns + column[None, :],
            mask=(row < rows)[:, None] & (column < columns)[None, :],
            other=0.0,
        )
    sums = tl.sum(total, axis=0).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + column, sums, mask=column < columns)


def column_sums(partial: Tensor, dtype: torch.dtype) -> Tensor:
    """Add up the partial sums of a Triton kernel's programs: fp32 [programs, ...] -> dtype [...].

    Two runs agree in every bit.
    """
    out = partial.new_empty(partial.shape[1:], dtype=dtype)
    launch(
        _column_sums_kernel,
        (triton.cdiv(out.numel(), _COLUMNS),),
        partial_ptr=partial,
        out_ptr=out,
        rows=len(partial),
        columns=out.numel(),
        ROWS=_ROWS,
        COLUMNS=_COLUMNS,
        num_warps=4,
    )
    return out


class _LateBias(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, bias: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.width, ctx.dtype = len(inputs[1]), inputs[1].dtype

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None]:
        grad = grad.contiguous()  # once, for these sums and for the layer's products
        if not ctx.needs_input_grad[1]:
            return grad, None
        return grad, grad.view(-1, ctx.width).sum(0).to(ctx.dtype)


def late_bias(x: Tensor, bias: Tensor | None) -> Tensor:
    """Return x unchanged, and give the bias its gradient, bit-equal to that of torch's linear.

    x: the output of a layer that added `bias.detach()`, [..., D], or with its last axis split, as
    in [..., 3, h, d]. bias: [D], or None for nothing to do.
    """
    return x if bias is None else _LateBias.apply(x, bias)
