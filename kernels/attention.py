"""Attention over a packed qkv tensor, by the fastest way the device has.

B = batch, N = tokens, h = heads, d = head width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def attention(qkv: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v for every head, without mask or dropout.

    qkv: [B, N, 3, h, d]. Returns [B, N, h * d] of the same dtype, contiguous.
    """
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    return cross_attention(q, k, v)


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
