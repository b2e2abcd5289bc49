"""Attention over a packed qkv tensor, by the fastest way the device has.

B = batch, N = tokens, M = rows asked for, h = heads, d = head width. The Triton kernels are in
`_attention_tile`, which way is the fastest in `_attention_choice`. Order: custom ops, torch,
choice, public function.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from fastimae.kernels import _attention_tile as kernel
from fastimae.kernels._attention_choice import Choice, Tile, choose, tile_of
from fastimae.kernels._launch import Impl, attention_preference, use_triton
from fastimae.kernels.checks import check_qkv

_DTYPES = (torch.float16, torch.bfloat16)
"""What tensor cores multiply; products of fp32 take too many registers in a tile of any size."""


@torch.library.custom_op("fastimae::attention_forward", mutates_args=())
def _forward(qkv: Tensor) -> tuple[Tensor, Tensor]:
    """(out, lse); lse: fp32, as `_attention_tile` has it."""
    if qkv.numel() == 0:
        return _empty_outputs(qkv)
    return kernel.forward(qkv, _tile(qkv), _choice(qkv).forward)


@_forward.register_fake
def _empty_outputs(qkv: Tensor) -> tuple[Tensor, Tensor]:
    batch, tokens, _, heads, width = qkv.shape
    out = qkv.new_empty(batch, tokens, heads * width)
    return out, qkv.new_empty(kernel.lse_shape(qkv, _tile(qkv)), dtype=torch.float32)


@torch.library.custom_op("fastimae::attention_backward", mutates_args=())
def _backward(grad: Tensor, qkv: Tensor, lse: Tensor) -> Tensor:
    if qkv.numel() == 0:
        return _empty_gradient(grad, qkv, lse)
    return kernel.backward(grad.contiguous(), qkv, lse, _tile(qkv), _choice(qkv).backward)


@_backward.register_fake
def _empty_gradient(grad: Tensor, qkv: Tensor, lse: Tensor) -> Tensor:
    return torch.empty_like(qkv, memory_format=torch.contiguous_format)


def _tile(qkv: Tensor) -> Tile | None:
    return tile_of(qkv.shape[1], qkv.shape[4])


def _choice(qkv: Tensor) -> Choice:
    return choose(qkv.shape[1], qkv.shape[4], qkv.device)


def _save(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _gradient(ctx: Any, grad: Tensor, _: None) -> Tensor:
    return _backward(grad, *ctx.saved_tensors)


_forward.register_autograd(_gradient, setup_context=_save)


def cross_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of some rows over all rows.

    q: [B, h, M, d]; k, v: [B, h, N, d]. Returns [B, M, h * d] of the same dtype, contiguous.
    """
    if q.device.type == "cpu" and q.dtype == torch.bfloat16:
        # SDPA in bf16 is slower than fp32 on CPUs; matrix products use AMX or AVX512-bf16.
        weights = ((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)).softmax(-1)
        out = weights @ v
    else:
        out = F.scaled_dot_product_attention(q, k, v)
    return out.transpose(1, 2).flatten(2)


def _sdpa(qkv: Tensor) -> Tensor:
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    with torch.autocast(qkv.device.type, enabled=False):  # it would cast fp32 to bf16
        if not qkv.is_cuda:
            return cross_attention(q, k, v)
        with sdpa_kernel(_priority(_choice(qkv)), set_priority=True):
            return cross_attention(q, k, v)


def _priority(choice: Choice) -> list[SDPBackend]:
    """SDPA's back ends, best first: torch's own order has cuDNN's last."""
    best = [getattr(SDPBackend, f"{name.upper()}_ATTENTION") for name in choice.sdpa]
    return [*best, SDPBackend.MATH]


def _by_triton(qkv: Tensor, impl: Impl) -> bool:
    """Whether Triton runs this call: asked for, or preferred, or the faster way."""
    preferred = attention_preference() if impl == "auto" else impl
    if preferred == "auto" and qkv.is_cuda and not _faster(qkv):
        return False
    return use_triton("attention", impl, qkv, obstacle=_obstacle(qkv), preferred=preferred)


def _faster(qkv: Tensor) -> bool:
    """Whether the table of the tensor's GPU is for Triton. fp32 is for SDPA."""
    return qkv.dtype != torch.float32 and _choice(qkv).use == "triton"


def _obstacle(qkv: Tensor) -> str:
    """Why the kernels do not serve this tensor, or nothing."""
    tokens, width = qkv.shape[1], qkv.shape[4]
    if qkv.dtype not in _DTYPES:
        return f"its dtype is {qkv.dtype}"
    if width % 8 or width > 128:
        return f"heads of {width} channels, where it takes multiples of 8 up to 128"
    if _tile(qkv) is None:
        return f"{tokens} tokens with heads of {width} channels do not fit in a tile"
    return ""


def attention(qkv: Tensor, *, impl: Impl = "auto") -> Tensor:
    """softmax(q k^T / sqrt(d)) v for every head, without mask or dropout (ViT, appendix A).

    qkv: [B, N, 3, h, d], any strides; Triton reads it in place where all but the last, of 1, are
    multiples of 8. fp32, fp16 and bf16, with sums in fp32; nothing is cast to a shorter dtype.
    impl: "auto" takes on CUDA what `prefer` or FASTIMAE_ATTENTION say, else what the table of the
    GPU says is the faster, and SDPA elsewhere; bf16 on the CPU is multiplied out.

    Returns [B, N, h * d] of the same dtype, contiguous. With Triton the gradient of qkv is one
    contiguous tensor, and two runs agree in every bit.
    Raises ValueError for another shape, for a variable or table that makes no sense, and for
    impl="triton" where that cannot run: in fp32, and for keys that do not fit in one tile.
    """
    check_qkv(qkv)
    return _forward(qkv)[0] if _by_triton(qkv, impl) else _sdpa(qkv)
