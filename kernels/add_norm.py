"""Residual sum and the layer norm after it, forward and backward in one pass each.

D = width. A pass moves four rows of D values: forward reads x and change and writes their sum and
its norm; backward reads the sum and both gradients and writes the gradient of the sum. The same
pass sums over rows for the gradients of weight and biases (see `late_bias`).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastimae.kernels._launch import Impl, jit, launch, multiprocessor_count, tl, triton, use_triton
from fastimae.kernels.checks import check_add_norm
from fastimae.kernels.late_bias import column_sums, late_bias

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_ROWS = 2
_WARPS_AT_ONCE = {"forward": 32, "backward": 16}
"""Warps per multiprocessor that registers allow: at least 48 KB of loads in flight."""


@jit
def _forward_kernel(
    x_ptr,
    change_ptr,
    weight_ptr,
    bias_ptr,
    total_ptr,
    normed_ptr,
    statistics_ptr,
    rows,
    eps,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """total = x + change; normed = (total - mean) * rstd * weight + bias, of the rounded total.

    x, change, total, normed [rows, WIDTH] of one dtype; weight, bias [WIDTH]; statistics fp32
    [rows, 2], mean and rstd, or None; all contiguous. The variance is that of total - mean, so that
    nothing cancels. Grid: any size; programs take turns with tiles of ROWS rows.
    """
    column = tl.arange(0, BLOCK)
    wide = column < WIDTH
    weight = tl.load(weight_ptr + column, mask=wide, other=0.0).to(tl.float32)[None, :]
    bias = tl.load(bias_ptr + column, mask=wide, other=0.0).to(tl.float32)[None, :]
    for tile in range(tl.program_id(0), tl.cdiv(rows, ROWS), tl.num_programs(0)):
        row = tile * ROWS + tl.arange(0, ROWS)
        mask = (row < rows)[:, None] & wide[None, :]
        at = row.to(tl.int64)[:, None] * WIDTH + column[None, :]
        x = tl.load(x_ptr + at, mask=mask, other=0.0)
        change = tl.load(change_ptr + at, mask=mask, other=0.0)
        rounded = (x.to(tl.float32) + change.to(tl.float32)).to(x.dtype)
        tl.store(total_ptr + at, rounded, mask=mask)
        total = rounded.to(tl.float32)
        mean = tl.sum(total, axis=1) / WIDTH
        apart = tl.where(wide[None, :], total - mean[:, None], 0.0)
        rstd = tl.rsqrt(tl.sum(apart * apart, axis=1) / WIDTH + eps)
        normed = apart * rstd[:, None] * weight + bias
        tl.store(normed_ptr + at, normed.to(x.dtype), mask=mask)
        if statistics_ptr is not None:
            tl.store(statistics_ptr + row * 2, mean, mask=row < rows)
            tl.store(statistics_ptr + row * 2 + 1, rstd, mask=row < rows)


@jit
def _backward_kernel(
    grad_total_ptr,
    grad_normed_ptr,
    total_ptr,
    statistics_ptr,
    weight_ptr,
    grad_ptr,
    partial_ptr,
    rows,
    WIDTH: tl.constexpr,
    SUMS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """grad = grad_total + rstd * (g - mean(g) - unit * mean(g * unit)), the gradient of total,
    where unit = (total - mean) * rstd and g = grad_normed * weight.

    partial, fp32 [programs, SUMS, WIDTH]: sums over a program's rows of grad_normed * unit, of
    grad_normed and, if SUMS is 3, of grad. grad_total may be None. The rest is as in forward.
    """
    column = tl.arange(0, BLOCK)
    wide = column < WIDTH
    weight = tl.load(weight_ptr + column, mask=wide, other=0.0).to(tl.float32)[None, :]
    weight_sum = tl.zeros((BLOCK,), tl.float32)
    norm_bias_sum = tl.zeros((BLOCK,), tl.float32)
    bias_sum = tl.zeros((BLOCK,), tl.float32)
    for tile in range(tl.program_id(0), tl.cdiv(rows, ROWS), tl.num_programs(0)):
        row = tile * ROWS + tl.arange(0, ROWS)
        mask = (row < rows)[:, None] & wide[None, :]
        at = row.to(tl.int64)[:, None] * WIDTH + column[None, :]
        total = tl.load(total_ptr + at, mask=mask, other=0.0).to(tl.float32)
        grad_normed = tl.load(grad_normed_ptr + at, mask=mask, other=0.0).to(tl.float32)
        if grad_total_ptr is not None:  # loaded before the sums, which wait for all warps
            grad_total = tl.load(grad_total_ptr + at, mask=mask, other=0.0)
        mean = tl.load(statistics_ptr + row * 2, mask=row < rows, other=0.0)[:, None]
        rstd = tl.load(statistics_ptr + row * 2 + 1, mask=row < rows, other=0.0)[:, None]
        unit = (total - mean) * rstd
        weighted = grad_normed * weight  # 0 beyond WIDTH
        along = (tl.sum(weighted * unit, axis=1) / WIDTH)[:, None]
        level = (tl.sum(weighted, axis=1) / WIDTH)[:, None]
        grad = rstd * (weighted - level - unit * along)
        if grad_total_ptr is not None:
            grad += grad_total.to(tl.float32)
        tl.store(grad_ptr + at, grad.to(grad_ptr.dtype.element_ty), mask=mask)
        weight_sum += tl.sum(grad_normed * unit, axis=0)
        norm_bias_sum += tl.sum(grad_normed, axis=0)
        if SUMS == 3:
            bias_sum += tl.sum(grad, axis=0)  # rows beyond the last add 0, as their rstd is 0
    to = partial_ptr + tl.program_id(0).to(tl.int64) * SUMS * WIDTH + column
    tl.store(to, weight_sum, mask=wide)
    tl.store(to + WIDTH, norm_bias_sum, mask=wide)
    if SUMS == 3:
        tl.store(to + 2 * WIDTH, bias_sum, mask=wide)


def _settings(width: int) -> dict[str, int]:
    """Return launch settings: whole rows, 8 values per thread (16 bytes of bf16)."""
    block = triton.next_power_of_2(width)
    warps = min(max(block // 256, 1), 16)
    return {"WIDTH": width, "ROWS": _ROWS, "BLOCK": block, "num_warps": warps}


def _grid(rows: int, settings: dict[str, int], device: torch.device, direction: str) -> tuple[int]:
    """Return as many programs as run at once, or as there are tiles if those are fewer."""
    per_processor = max(_WARPS_AT_ONCE[direction] // settings["num_warps"], 1)
    at_once = multiprocessor_count(device) * per_processor
    return (min(triton.cdiv(rows, _ROWS), at_once),)


@torch.library.custom_op("fastimae::add_norm", mutates_args=())
def _forward(
    x: Tensor,
    change: Tensor,
    bias: Tensor | None,
    weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return sum, norm, and fp32 [rows, 2] mean and rstd, which are empty unless `save`."""
    total, normed, statistics = _empty_outputs(x, change, bias, weight, norm_bias, eps, save)
    rows, settings = x.numel() // x.shape[-1], _settings(x.shape[-1])
    if rows:
        launch(
            _forward_kernel,
            _grid(rows, settings, x.device, "forward"),
            x_ptr=x.contiguous(),
            change_ptr=change.contiguous(),
            weight_ptr=weight.contiguous(),
            bias_ptr=norm_bias.contiguous(),
            total_ptr=total,
            normed_ptr=normed,
            statistics_ptr=statistics if save else None,
            rows=rows,
            eps=eps,
            **settings,
        )
    return total, normed, statistics


@_forward.register_fake
def _empty_outputs(
    x: Tensor,
    change: Tensor,
    bias: Tensor | None,
    weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    total = torch.empty_like(x, memory_format=torch.contiguous_format)
    rows = x.numel() // x.shape[-1] if save else 0
    return total, torch.empty_like(total), x.new_empty(rows, 2, dtype=torch.float32)


@torch.library.custom_op("fastimae::add_norm_backward", mutates_args=())
def _backward(
    grad_total: Tensor | None,
    grad_normed: Tensor,
    total: Tensor,
    statistics: Tensor,
    weight: Tensor,
    late: bool,
) -> tuple[Tensor, Tensor]:
    """Return the gradients of the sum and, as [2 or 3, D], of weight, norm_bias and a late bias."""
    grad, sums = _empty_gradients(grad_total, grad_normed, total, statistics, weight, late)
    rows, settings = len(statistics), _settings(total.shape[-1])
    if not rows:
        return grad, sums.zero_()
    grid = _grid(rows, settings, total.device, "backward")
    partial = sums.new_empty(*grid, *sums.shape, dtype=torch.float32)
    launch(
        _backward_kernel,
        grid,
        grad_total_ptr=None if grad_total is None else grad_total.contiguous(),
        grad_normed_ptr=grad_normed.contiguous(),
        total_ptr=total,
        statistics_ptr=statistics,
        weight_ptr=weight.contiguous(),
        grad_ptr=grad,
        partial_ptr=partial,
        rows=rows,
        SUMS=len(sums),
        **settings,
    )
    return grad, column_sums(partial, sums.dtype)


@_backward.register_fake
def _empty_gradients(
    grad_total: Tensor | None,
    grad_normed: Tensor,
    total: Tensor,
    statistics: Tensor,
    weight: Tensor,
    late: bool,
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(total), weight.new_empty(2 + late, total.shape[-1])


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    bias, weight = inputs[2:4]
    total, _, statistics = output
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.save_for_backward(total, statistics, weight)
    ctx.mark_non_differentiable(statistics)
    ctx.set_materialize_grads(False)


def _gradients(
    ctx: Any, grad_total: Tensor | None, grad_normed: Tensor | None, _: None
) -> tuple[Tensor | None, ...]:
    total, statistics, weight = ctx.saved_tensors
    late = ctx.needs_input_grad[2]
    if grad_normed is None:
        grad_normed = torch.zeros_like(total)
    grad, sums = _backward(grad_total, grad_normed, total, statistics, weight, late)
    grad_bias = sums[2].to(ctx.bias_dtype) if late else None
    return grad, grad, grad_bias, sums[0], sums[1], None, None


_forward.register_autograd(_gradients, setup_context=_save)


def _obstacle(x: Tensor, *others: Tensor) -> str:
    """Return why the kernels do not support these tensors, or an empty string."""
    dtypes = {x.dtype, *(other.dtype for other in others)}
    if len(dtypes) > 1 or x.dtype not in _DTYPES:
        return f"its dtypes are {', '.join(sorted(map(str, dtypes)))}"
    return ""


def add_norm(
    x: Tensor,
    change: Tensor,
    bias: Tensor | None,
    weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    *,
    impl: Impl = "auto",
) -> tuple[Tensor, Tensor]:
    """Compute x + change and its layer norm (Ba et al., 2016), as in a pre-norm transformer.

    x, change: [..., D]. weight, norm_bias: [D]. Any float dtype; Triton takes fp32, fp16 or bf16,
    the same for all, and normalises the rounded sum in fp32. bias: [D], a late bias, which change
    already includes: its value is not used, and its gradient is computed here (see `late_bias`).
    eps: added to the variance. impl: "auto" uses Triton on CUDA, and torch elsewhere and under
    autocast, which chooses its own dtype for norms.

    Returns the sum and its norm, [..., D] of the same dtype, contiguous. With Triton, x and change
    receive the same tensor as their gradient, and two runs agree in every bit.
    Raises ValueError if shapes do not fit together, and if impl="triton" cannot run.
    """
    check_add_norm(x, change, bias, weight, norm_bias)
    tensors = (x, change, weight, norm_bias)
    default = "torch" if x.is_cuda and torch.is_autocast_enabled("cuda") else None
    if use_triton("add_norm", impl, *tensors, obstacle=_obstacle(*tensors), default=default):
        given = (*tensors[:2], bias, *tensors[2:])
        save = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in given)
        return _forward(*given, eps, save)[:2]
    total = x + late_bias(change, bias)
    return total, F.layer_norm(total, weight.shape, weight, norm_bias, eps)
