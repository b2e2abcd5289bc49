"""Attention over a packed qkv tensor, by the fastest implementation for the device.

B = batch, N = tokens, M = query rows, h = heads, d = head width. The Triton kernels are in
`_attention_tile`, the choice of the fastest implementation in `_attention_choice`. Order: custom
ops, torch, choice, public function.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from fastimae.kernels import _attention_tile as kernel
from fastimae.kernels._attention_choice import AttentionChoice, AttentionTile, choose, tile_of
from fastimae.kernels._launch import Impl, default_impl, use_triton
from fastimae.kernels.checks import check_qkv
from fastimae.kernels.late_bias import late_bias

_DTYPES = (torch.float16, torch.bfloat16)
"""Dtypes for tensor cores; fp32 products take too many registers, whatever the tile size."""


@torch.library.custom_op("fastimae::attention_forward", mutates_args=())
def _forward(qkv: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return (out, lse); lse is fp32, in the layout of `_attention_tile`."""
    if qkv.numel() == 0:
        return _empty_outputs(qkv, bias)
    return kernel.forward(qkv, _tile(qkv), _choice(qkv).forward)


@_forward.register_fake
def _empty_outputs(qkv: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    batch, tokens, _, heads, width = qkv.shape
    out = qkv.new_empty(batch, tokens, heads * width)
    return out, qkv.new_empty(kernel.lse_shape(qkv, _tile(qkv)), dtype=torch.float32)


@torch.library.custom_op("fastimae::attention_backward", mutates_args=())
def _backward(
    grad: Tensor, qkv: Tensor, out: Tensor, lse: Tensor, summed: bool
) -> tuple[Tensor, Tensor]:
    """Return the gradient of qkv, and the sums of q's and v's over the rows of each tile.

    The sums have the layout of `_attention_tile`, and are empty unless `summed`.
    """
    if qkv.numel() == 0:
        grad_qkv, sums = _empty_gradients(grad, qkv, out, lse, summed)
        return grad_qkv, sums.zero_()
    settings = _choice(qkv).backward
    return kernel.backward(grad.contiguous(), qkv, out, lse, _tile(qkv), settings, summed=summed)


@_backward.register_fake
def _empty_gradients(
    grad: Tensor, qkv: Tensor, out: Tensor, lse: Tensor, summed: bool
) -> tuple[Tensor, Tensor]:
    return kernel.empty_gradients(qkv, lse, summed)


def _tile(qkv: Tensor) -> AttentionTile | None:
    return tile_of(qkv.shape[1], qkv.shape[4])


def _choice(qkv: Tensor) -> AttentionChoice:
    return choose(qkv.shape[1], qkv.shape[4], qkv.device)


def _save(ctx: Any, inputs: tuple[Tensor, Tensor | None], output: tuple[Tensor, Tensor]) -> None:
    qkv, bias = inputs
    ctx.save_for_backward(qkv, *output)
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _gradient(ctx: Any, grad: Tensor, _: None) -> tuple[Tensor, Tensor | None]:
    summed = ctx.needs_input_grad[1]
    grad_qkv, sums = _backward(grad, *ctx.saved_tensors, summed)
    if not summed:
        return grad_qkv, None
    sum_q, sum_v = sums.sum(0)
    sum_k = torch.zeros_like(sum_q)  # softmax ignores what is added to all keys
    return grad_qkv, torch.stack([sum_q, sum_k, sum_v]).flatten().to(ctx.bias_dtype)


_forward.register_autograd(_gradient, setup_context=_save)


def cross_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Compute the attention of M query rows over all N rows.

    q: [B, h, M, d]; k, v: [B, h, N, d]. Returns [B, M, h * d] of the same dtype, contiguous.
    """
    if q.device.type == "cpu" and q.dtype == torch.bfloat16:
        # On CPUs, SDPA in bf16 is slower than in fp32; matrix products use AMX or AVX512-bf16.
        weights_BhMN = ((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)).softmax(-1)
        out_BhMd = weights_BhMN @ v
    else:
        out_BhMd = F.scaled_dot_product_attention(q, k, v)
    return out_BhMd.transpose(1, 2).flatten(2)


def _sdpa(qkv: Tensor) -> Tensor:
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    with torch.autocast(qkv.device.type, enabled=False):  # it would cast fp32 to bf16
        if not qkv.is_cuda:
            return cross_attention(q, k, v)
        with sdpa_kernel(_priority(_choice(qkv)), set_priority=True):
            return cross_attention(q, k, v)


def _priority(choice: AttentionChoice) -> list[SDPBackend]:
    """Return SDPA's back ends, best first: torch's default order puts cuDNN last."""
    best = [getattr(SDPBackend, f"{name.upper()}_ATTENTION") for name in choice.sdpa]
    return [*best, SDPBackend.MATH]


def _by_triton(qkv: Tensor, impl: Impl) -> bool:
    """Return whether Triton runs this call: on request, by default, or because it is faster."""
    default = default_impl("attention") if impl == "auto" else impl
    if default == "auto" and qkv.is_cuda and not _faster(qkv):
        return False
    return use_triton("attention", impl, qkv, obstacle=_obstacle(qkv), default=default)


def _faster(qkv: Tensor) -> bool:
    """Return whether the GPU's table selects Triton. fp32 always goes to SDPA."""
    return qkv.dtype != torch.float32 and _choice(qkv).use == "triton"


def _obstacle(qkv: Tensor) -> str:
    """Return why the kernels do not support this tensor, or an empty string."""
    tokens, width = qkv.shape[1], qkv.shape[4]
    if qkv.dtype not in _DTYPES:
        return f"its dtype is {qkv.dtype}"
    if width % 8 or width > 128:
        return f"heads have {width} channels, and it takes multiples of 8 up to 128"
    if _tile(qkv) is None:
        return f"{tokens} tokens with heads of {width} channels do not fit in a tile"
    return ""


def attention(qkv: Tensor, bias: Tensor | None = None, *, impl: Impl = "auto") -> Tensor:
    """Compute softmax(q k^T / sqrt(d)) v for every head, without mask or dropout (ViT, appendix A).

    qkv: [B, N, 3, h, d], any strides; Triton reads it in place if the last stride is 1 and the
    others are multiples of 8. fp32, fp16 and bf16, with sums in fp32; nothing is cast to a shorter
    dtype. bias: [3 * h * d], a late bias, which the layer before has already added, as in
    `F.linear(x, weight, bias.detach())`. Its value is not used; its gradient, that of qkv summed
    over B and N, is computed here, since the kernel has the summands in registers, and has the
    dtype of the bias. impl: "auto" means SDPA unless on CUDA; there it follows `set_default_impl`
    or FASTIMAE_ATTENTION, or else the GPU's table. bf16 on the CPU uses plain matrix products.

    Returns [B, N, h * d] of the same dtype, contiguous. With Triton the gradient of qkv is one
    contiguous tensor, and two runs agree in every bit.
    Raises ValueError for other shapes or two devices, for an invalid variable or table, and for
    impl="triton" where that cannot run: in fp32, and for keys that do not fit in one tile.
    """
    check_qkv(qkv, bias)
    if _by_triton(qkv, impl):
        return _forward(qkv, bias)[0]
    return _sdpa(late_bias(qkv, bias))
