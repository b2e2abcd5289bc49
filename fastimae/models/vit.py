"""Blocks of a vision transformer, with timm's and MAE's parameter names.

B = batch, N = tokens, M = masked patches, D = width, h = heads, d = head width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastimae.kernels import Mask, attention
from fastimae.kernels.attention import cross_attention
from fastimae.kernels.rows import masked_rows

LAYER_NORM_EPS = 1e-6


class PatchEmbed(nn.Module):
    """Linear embedding of flattened patches; the weight is stored as a convolution's, as in MAE."""

    def __init__(self, *, patch_size: int, in_chans: int, embed_dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, patches_BNP: Tensor) -> Tensor:
        """[B, N, P*P*C], pixels ordered (row, column, channel) -> [B, N, D]."""
        weight = self.proj.weight.permute(0, 2, 3, 1).flatten(1)
        return F.linear(patches_BNP, weight, self.proj.bias)


class Attention(nn.Module):
    """Multi-head self-attention with a packed qkv projection."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x_BND: Tensor) -> Tensor:
        qkv = self.qkv(x_BND).unflatten(-1, (3, self.num_heads, -1))
        return self.proj(attention(qkv))

    def forward_rows(self, x_BND: Tensor, rows_BMD: Tensor) -> Tensor:
        """Attention of some rows over all: only their queries are computed. -> [B, M, D]"""
        weight_q, weight_kv = self.qkv.weight.tensor_split([x_BND.shape[-1]])
        bias_q, bias_kv = self.qkv.bias.tensor_split([x_BND.shape[-1]])
        q = F.linear(rows_BMD, weight_q, bias_q).unflatten(-1, (self.num_heads, -1))
        kv = F.linear(x_BND, weight_kv, bias_kv).unflatten(-1, (2, self.num_heads, -1))
        k, v = kv.permute(2, 0, 3, 1, 4)
        return self.proj(cross_attention(q.transpose(1, 2), k, v))


class Mlp(nn.Module):
    """Two linear layers around an exact (erf) GELU."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Pre-norm transformer block, which leaves its last sum to what comes next (see `run_blocks`).

    So the sum and the norm after it are compiled together, as one kernel that reads the residual
    stream once, though blocks are compiled one by one.
    """

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.attn = Attention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(
        self, x_BND: Tensor, change_BND: Tensor, mask: Mask | None = None
    ) -> tuple[Tensor, Tensor]:
        """The residual stream, and what the block before adds to it -> the same of this block.

        [B, N, D] each; with a mask, the rows of its masked patches, [B, M, D], without computing
        the others past keys and values.
        """
        return self.from_sum(x_BND + change_BND, mask)

    def from_sum(self, x_BND: Tensor, mask: Mask | None) -> tuple[Tensor, Tensor]:
        """The same, of the whole sum: one tensor, and all that --grad_checkpointing keeps."""
        normed = self.norm1(x_BND)
        if mask is None:
            x = x_BND + self.attn(normed)
        else:
            x = masked_rows(x_BND, mask)
            x = x + self.attn.forward_rows(normed, masked_rows(normed, mask))
        return x, self.mlp(self.norm2(x))


class _NoChange(torch.autograd.Function):
    """Zeros like x, which need a gradient where x does: what the first block is given to add, so
    that all blocks of a kind are one compilation."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.zeros_like(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> None:
        return None


def run_blocks(blocks: nn.ModuleList, x_BND: Tensor, mask: Mask | None = None) -> Tensor:
    """[B, N, D] -> [B, N, D] through all blocks; with a mask, the rows of its masked patches,
    [B, M, D], which are all that the last block computes."""
    x, change = x_BND, _NoChange.apply(x_BND)
    for block in blocks:
        x, change = block(x, change, mask if block is blocks[-1] else None)
    return x + change


def sincos_positions(embed_dim: int, grid: tuple[int, int]) -> Tensor:
    """Fixed 2-D sin-cos positions of a class token and a grid of patches (MAE, appendix A.1).

    embed_dim: a multiple of 4. grid: patches (down, across). Returns fp32 [1, 1 + L, D]: zeros
    for the class token, then per patch sin and cos of its column, sin and cos of its row.
    """
    quarter = embed_dim // 4
    omega = 10000.0 ** -(torch.arange(quarter, dtype=torch.float64) / quarter)
    row, column = torch.meshgrid(
        torch.arange(grid[0], dtype=torch.float64),
        torch.arange(grid[1], dtype=torch.float64),
        indexing="ij",
    )
    angles = [axis.flatten()[:, None] * omega for axis in (column, row)]
    table = torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], dim=1)
    return torch.cat([torch.zeros(1, embed_dim), table.float()])[None]


def init_weights(module: nn.Module) -> None:
    """MAE's initialisation of one module: xavier-uniform weights, zero biases, unit norms."""
    if isinstance(module, PatchEmbed):
        nn.init.xavier_uniform_(module.proj.weight.view(len(module.proj.weight), -1))
        nn.init.zeros_(module.proj.bias)
    elif isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)
