"""Attention over a packed qkv tensor, by the fastest way the device has.

B = batch, N = tokens, M = rows asked for, h = heads, d = head width. The Triton kernels are in
`_attention_tile` (short sequences) and `_attention_online`. Order: choice, custom ops, torch,
public functions.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from fastimae.kernels import _attention_online as online
from fastimae.kernels import _attention_tile as tile
from fastimae.kernels._launch import Impl, use_triton

# Longest sequence that the Triton kernels win, by architecture and by heads of up to that width.
_TRITON_UP_TO = {
    (8, 0): {32: 256, 64: 128, 128: 64},
    (9, 0): {32: 256, 64: 128, 128: 64},
    (10, 0): {32: 256, 64: 128, 128: 64},
}


def choose(
    tokens: int, head_dim: int, dtype: torch.dtype, capability: tuple[int, int]
) -> Literal["triton", "sdpa"]:
    """The faster way for a shape on a CUDA device of a compute capability.

    A device takes the entries of the latest architecture up to its own. They are estimates until
    measured (python -m benchmarks.kernels): Triton where a head's keys fit in one tile. fp32,
    which tensor cores do not multiply, and devices before 8.0 are for SDPA.
    """
    known = [architecture for architecture in _TRITON_UP_TO if architecture <= capability]
    if dtype == torch.float32 or not known:
        return "sdpa"
    limits = _TRITON_UP_TO[max(known)]
    longest = next((limits[width] for width in sorted(limits) if head_dim <= width), 0)
    return "triton" if tokens <= longest else "sdpa"


@torch.library.custom_op("fastimae::attention_forward", mutates_args=())
def _forward(qkv: Tensor) -> tuple[Tensor, Tensor]:
    """(out, lse); lse: fp32, in the layout of the kernel that this shape takes."""
    if qkv.numel() == 0:
        return _empty_outputs(qkv)
    fits = tile.settings(qkv.shape[1], qkv.shape[4], qkv.dtype)
    return tile.forward(qkv, fits) if fits else online.forward(qkv)


@_forward.register_fake
def _empty_outputs(qkv: Tensor) -> tuple[Tensor, Tensor]:
    batch, tokens, _, heads, width = qkv.shape
    fits = tile.settings(tokens, width, qkv.dtype)
    shape = tile.lse_shape(qkv, fits) if fits else online.lse_shape(qkv)
    out = qkv.new_empty(batch, tokens, heads * width)
    return out, qkv.new_empty(shape, dtype=torch.float32)


@torch.library.custom_op("fastimae::attention_backward", mutates_args=())
def _backward(grad: Tensor, qkv: Tensor, out: Tensor, lse: Tensor) -> Tensor:
    if qkv.numel() == 0:
        return _empty_gradient(grad, qkv, out, lse)
    grad = grad.contiguous()
    fits = tile.settings(qkv.shape[1], qkv.shape[4], qkv.dtype)
    return tile.backward(grad, qkv, lse, fits) if fits else online.backward(grad, qkv, out, lse)


@_backward.register_fake
def _empty_gradient(grad: Tensor, qkv: Tensor, out: Tensor, lse: Tensor) -> Tensor:
    return torch.empty_like(qkv, memory_format=torch.contiguous_format)


def _save(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, *output)
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _gradient(ctx: Any, grad: Tensor, _: None) -> Tensor:
    return _backward(grad, *ctx.saved_tensors)


_forward.register_autograd(_gradient, setup_context=_save)


def _obstacle(qkv: Tensor) -> str:
    """Why the kernels do not serve this tensor, or nothing."""
    width = qkv.shape[4]
    if qkv.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return f"its dtype is {qkv.dtype}"
    if width % 8 or width > 128:
        return f"heads of {width} channels, where it takes multiples of 8 up to 128"
    return ""


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
        with sdpa_kernel(_priority(_capability(qkv.device)), set_priority=True):
            return cross_attention(q, k, v)


def _priority(capability: tuple[int, int]) -> list[SDPBackend]:
    """SDPA's back ends, best first: torch puts cuDNN's last, which is the fastest on 9.0."""
    cudnn, flash = SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION
    best = [cudnn, flash] if capability == (9, 0) else [flash, cudnn]
    return [*best, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def _chosen(qkv: Tensor) -> bool:
    """Whether `choose` is for Triton on this tensor's device."""
    _, tokens, _, _, width = qkv.shape
    return choose(tokens, width, qkv.dtype, _capability(qkv.device)) == "triton"


def _capability(device: torch.device) -> tuple[int, int]:
    properties = torch.cuda.get_device_properties(device)
    return properties.major, properties.minor


def attention(qkv: Tensor, *, impl: Impl = "auto") -> Tensor:
    """softmax(q k^T / sqrt(d)) v for every head, without mask or dropout (ViT, appendix A).

    qkv: [B, N, 3, h, d], any strides; Triton reads it in place where all but the last, of 1, are
    multiples of 8. fp32, fp16 and bf16, with sums in fp32; nothing is cast to a shorter dtype.
    impl: "auto" takes on CUDA what `choose` says, and SDPA elsewhere; bf16 on the CPU is
    multiplied out.

    Returns [B, N, h * d] of the same dtype, contiguous. With Triton the gradient of qkv is one
    contiguous tensor, and two runs agree in every bit.
    Raises ValueError for another shape, and for impl="triton" where that cannot run.
    """
    if qkv.dim() != 5 or qkv.shape[2] != 3:
        raise ValueError(f"attention: qkv must be [B, N, 3, h, d], not {list(qkv.shape)}")
    triton = use_triton("attention", impl, qkv, obstacle=_obstacle(qkv))
    if triton and (impl == "triton" or _chosen(qkv)):
        return _forward(qkv)[0]
    return _sdpa(qkv)
