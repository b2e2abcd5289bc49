"""A block's MLP, fc2(gelu(fc1(x))), with GELU and its derivative fused into matrix products.

M = rows, d = width, H = hidden width. The Triton kernels are in `_mlp_tile`, the choice of the
faster implementation in `_mlp_choice`. Order: custom ops, choice, public function.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastimae.kernels import _mlp_tile as kernel
from fastimae.kernels._launch import Impl, default_impl, use_triton
from fastimae.kernels._mlp_choice import choose
from fastimae.kernels.checks import check_mlp

_DTYPES = (torch.float16, torch.bfloat16)
"""Dtypes that tensor cores multiply fast enough for the fused products to pay off."""
_PLAIN = (Tensor, nn.Parameter)
"""Tensor types without special behaviour; fp8 weights and sharded tensors are subclasses."""


@torch.library.custom_op("fastimae::mlp_forward", mutates_args=())
def _forward(
    x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return out [M, d], and for backward fc1's output h [M, H] and gelu(h), empty unless kept."""
    if len(x) == 0:
        return _empty_outputs(x, weight1, bias1, weight2, bias2, keep)
    blocks = choose(*x.shape, x.device).forward
    h, activated = kernel.forward(x, weight1, bias1, blocks, keep=keep)
    out = F.linear(activated, weight2, bias2)
    return out, h, activated if keep else torch.empty_like(h)


@_forward.register_fake
def _empty_outputs(
    x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    kept = (len(x), len(weight1)) if keep else (0,)
    return x.new_empty(len(x), len(weight2)), x.new_empty(kept), x.new_empty(kept)


@torch.library.custom_op("fastimae::mlp_backward", mutates_args=())
def _backward(grad: Tensor, weight2: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of h and of bias1, [H], the column sums of the former."""
    if len(grad) == 0:
        return torch.empty_like(h), h.new_zeros(h.shape[1])
    return kernel.backward(grad, weight2, h, choose(*grad.shape, h.device).backward)


@_backward.register_fake
def _empty_gradients(grad: Tensor, weight2: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(h), h.new_empty(h.shape[1])


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, weight1, _, weight2, _, _ = inputs
    _, h, activated = output
    ctx.save_for_backward(x, weight1, weight2, h, activated)
    ctx.mark_non_differentiable(h, activated)
    ctx.set_materialize_grads(False)


def _gradient(ctx: Any, grad: Tensor, *_: None) -> tuple[Tensor | None, ...]:
    x, weight1, weight2, h, activated = ctx.saved_tensors
    need_x, need_weight1, need_bias1, need_weight2, need_bias2, _ = ctx.needs_input_grad
    grad_h = grad_bias1 = None
    if need_x or need_weight1 or need_bias1:
        grad_h, grad_bias1 = _backward(grad, weight2, h)
    return (
        grad_h @ weight1 if need_x else None,
        grad_h.t() @ x if need_weight1 else None,
        grad_bias1 if need_bias1 else None,
        grad.t() @ activated if need_weight2 else None,
        grad.sum(0) if need_bias2 else None,
        None,
    )


_forward.register_autograd(_gradient, setup_context=_save)


def _by_triton(x: Tensor, *parameters: Tensor, impl: Impl) -> bool:
    """Return whether Triton runs this call: on request, by default, or because it is faster."""
    default = default_impl("mlp") if impl == "auto" else impl
    obstacle = _obstacle(x, *parameters)
    if default == "auto" and x.is_cuda and (obstacle or not _faster(x)):
        return False
    return use_triton("mlp", impl, x, *parameters, obstacle=obstacle, default=default)


def _faster(x: Tensor) -> bool:
    """Return whether the table of the tensor's GPU selects Triton."""
    return choose(x.shape[:-1].numel(), x.shape[-1], x.device).use == "triton"


def _obstacle(x: Tensor, *parameters: Tensor) -> str:
    """Return why the kernels do not support this call, or an empty string."""
    hidden, width = parameters[0].shape
    if any(type(each) not in _PLAIN for each in (x, *parameters)):
        return "one of its tensors is of a subclass of Tensor"
    if x.device.type in ("cuda", "cpu") and torch.is_autocast_enabled(x.device.type):
        return "autocast chooses its dtypes"
    if x.dtype not in _DTYPES or any(each.dtype != x.dtype for each in parameters):
        return f"its dtypes are {', '.join(sorted({str(each.dtype) for each in (x, *parameters)}))}"
    if width % 8 or hidden % 8 or parameters[2].shape[0] % 8:
        return f"its widths are {width} and {hidden}, and it takes multiples of 8"
    return ""


def mlp(
    x: Tensor,
    weight1: Tensor,
    bias1: Tensor,
    weight2: Tensor,
    bias2: Tensor,
    *,
    impl: Impl = "auto",
) -> Tensor:
    """Compute gelu(x weight1^T + bias1) weight2^T + bias2, with the exact GELU, h Phi(h).

    x: [..., d]. weight1: [H, d], bias1: [H], weight2: [d', H], bias2: [d'], as in two nn.Linear.
    Triton takes fp16 and bf16, the same for all, without autocast. impl: "auto" means torch unless
    on CUDA; there it follows `set_default_impl` or FASTIMAE_MLP, or else the GPU's table.

    Returns [..., d'] in the dtype of x. With Triton, the gradient of bias1 is summed in fp32 in the
    same pass, and two runs agree in every bit.
    Raises ValueError for shapes that do not fit together, for an invalid variable or table, and for
    impl="triton" where that cannot run.
    """
    parameters = weight1, bias1, weight2, bias2
    check_mlp(x, *parameters)
    if not _by_triton(x, *parameters, impl=impl):
        return F.linear(F.gelu(F.linear(x, weight1, bias1)), weight2, bias2)
    keep = torch.is_grad_enabled() and any(each.requires_grad for each in (x, *parameters))
    rows = x.reshape(x.shape[:-1].numel(), x.shape[-1])
    return _forward(rows, *parameters, keep)[0].view(*x.shape[:-1], len(weight2))
