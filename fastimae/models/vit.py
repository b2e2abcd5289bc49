"""Blocks of a vision transformer, with timm's and MAE's parameter names.

B = batch, N = tokens, L = patches of an image, M = masked patches, P = values of a patch,
D = width, h = heads, d = head width, R = rows as `spread_rows` takes them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastimae.kernels import Mask, add_norm, attention, mlp
from fastimae.kernels.attention import cross_attention
from fastimae.kernels.late_bias import late_bias
from fastimae.kernels.rows import masked_rows
from fastimae.kernels.spread_rows import spread_rows
from fastimae.models.drop_path import scaled

LAYER_NORM_EPS = 1e-6


class PatchEmbed(nn.Module):
    """Linear embedding of flattened patches; the weight has a convolution's shape, as in MAE."""

    def __init__(self, *, patch_size: int, in_chans: int, embed_dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, patches_BNP: Tensor) -> Tensor:
        """Embed patches whose pixels are ordered (row, column, channel): [B, N, D]."""
        weight = self.proj.weight.permute(0, 2, 3, 1).flatten(1)
        return F.linear(patches_BNP, weight, self.proj.bias)


class Attention(nn.Module):
    """Multi-head self-attention with a packed qkv projection.

    late: the last bias gets no gradient here, but in the next op, such as `add_norm` (see
    `fastimae.kernels.late_bias`).
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x_BND: Tensor, spread: Mask | None = None, *, late: bool = False) -> Tensor:
        """Attend all tokens to all tokens: [B, N, D].

        spread: x holds rows [R, D] as `spread_rows` takes them, and qkv is computed for those only.
        """
        # `attention` computes the bias's gradient from that of qkv, which it has anyway.
        qkv = F.linear(x_BND, self.qkv.weight, self.qkv.bias.detach())
        if spread is not None:
            qkv = spread_rows(qkv, spread)
        out_BND = attention(qkv.unflatten(-1, (3, self.num_heads, -1)), self.qkv.bias)
        return F.linear(out_BND, self.proj.weight, last_bias(self.proj, late))

    def forward_rows(self, x_BND: Tensor, rows_BMD: Tensor, *, late: bool = False) -> Tensor:
        """Attend some rows to all tokens, with queries for those rows only: [B, M, D]."""
        weight_q, weight_kv = self.qkv.weight.tensor_split([x_BND.shape[-1]])
        bias_q, bias_kv = self.qkv.bias.tensor_split([x_BND.shape[-1]])
        q_BMhd = F.linear(rows_BMD, weight_q, bias_q).unflatten(-1, (self.num_heads, -1))
        kv_BN2hd = F.linear(x_BND, weight_kv, bias_kv).unflatten(-1, (2, self.num_heads, -1))
        k_BhNd, v_BhNd = kv_BN2hd.permute(2, 0, 3, 1, 4)
        out_BMD = cross_attention(q_BMhd.transpose(1, 2), k_BhNd, v_BhNd)
        return F.linear(out_BMD, self.proj.weight, last_bias(self.proj, late))


class Mlp(nn.Module):
    """Two linear layers around an exact (erf) GELU. late: see `Attention`.

    out: width of the result; None: that of the input.
    """

    def __init__(self, dim: int, hidden: int, out: int | None = None) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, out or dim)

    def forward(self, x: Tensor, *, late: bool = False) -> Tensor:
        fc1, fc2 = self.fc1, self.fc2
        return mlp(x, fc1.weight, fc1.bias, fc2.weight, last_bias(fc2, late))


def last_bias(layer: nn.Linear, late: bool) -> Tensor:
    """Return a layer's bias; `late`, without its gradient, which the next op computes."""
    return layer.bias.detach() if late else layer.bias


class Block(nn.Module):
    """Pre-norm transformer block, which leaves its last residual sum to what follows.

    That sum and the norm after it are thus one pass over the residual stream, although blocks are
    compiled one by one (see `run_blocks`).
    """

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.attn = Attention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(
        self,
        x_BND: Tensor,
        change_BND: Tensor,
        bias_D: Tensor | None,
        mask: Mask | None = None,
        spread: Mask | None = None,
        paths: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Advance the residual stream by one block.

        x: the residual stream, [B, N, D]. change: what the previous block adds to it, [B, N, D].
        bias: the late bias in change. Returns the same three of this block; with a mask, only the
        rows of masked patches, [B, M, D]: of the others, only keys and values are computed. With
        `spread`, x and change hold rows [R, D] as `spread_rows` takes them, and the first norm and
        projection are computed for those only. paths: fp32 [2, B], factors of what attention and
        MLP add to each sample, see `path_factors`; biases are not late then, and bias is None.
        """
        sums = _sum_and_norm(x_BND, change_BND, bias_D, self.norm1)
        return self.from_normed(*sums, mask, spread, paths)

    def sum_first(
        self,
        x_BND: Tensor,
        change_BND: Tensor,
        bias_D: Tensor | None,
        mask: Mask | None = None,
        spread: Mask | None = None,
        paths: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Replace `forward` with --grad_checkpointing, which keeps only the sum of each block."""
        return self.from_sum(_sum(x_BND, change_BND, bias_D), mask, spread, paths)

    def from_sum(
        self, x_BND: Tensor, mask: Mask | None, spread: Mask | None, paths: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Do what `forward` does, given the first sum."""
        return self.from_normed(x_BND, self.norm1(x_BND), mask, spread, paths)

    def from_normed(
        self,
        x_BND: Tensor,
        normed_BND: Tensor,
        mask: Mask | None,
        spread: Mask | None,
        paths: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Do what `forward` does, given the first sum and its norm."""
        if paths is not None:
            return self._on_paths(x_BND, normed_BND, paths)
        if spread is not None:
            x_BND = spread_rows(x_BND, spread)
        if mask is None:
            change = self.attn(normed_BND, spread, late=True)
        else:
            x_BND = masked_rows(x_BND, mask)
            rows = masked_rows(normed_BND, mask)
            change = self.attn.forward_rows(normed_BND, rows, late=True)
        return self.from_attended(x_BND, change)

    def from_attended(self, x_BND: Tensor, change: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Do what `forward` does, given the sum and what attention adds to it."""
        x, normed = _sum_and_norm(x_BND, change, self.attn.proj.bias, self.norm2)
        return x, self.mlp(normed, late=True), _as_activation(self.mlp.fc2.bias)

    def _on_paths(
        self, x_BND: Tensor, normed_BND: Tensor, paths_2B: Tensor
    ) -> tuple[Tensor, Tensor, None]:
        """Do what `from_normed` does, with factors of what attention and MLP add."""
        attention_B, mlp_B = paths_2B
        change = scaled(self.attn(normed_BND), attention_B)
        x, normed = _sum_and_norm(x_BND, change, None, self.norm2)
        return x, scaled(self.mlp(normed), mlp_B), None


def _sum_and_norm(
    x: Tensor, change: Tensor, bias: Tensor | None, norm: nn.Module
) -> tuple[Tensor, ...]:
    """Return x + change and its norm, which a fine-tuned encoder may have replaced or removed."""
    if type(norm) is nn.LayerNorm:
        return add_norm(x, change, bias, norm.weight, norm.bias, norm.eps)
    total = _sum(x, change, bias)
    return total, norm(total)


def _sum(x: Tensor, change: Tensor, bias: Tensor | None) -> Tensor:
    return x + (change if bias is None else late_bias(change, bias))


def _as_activation(bias: Tensor) -> Tensor:
    """Return a bias as an activation: FSDP hooks what a block returns, and frees its parameters.

    Its values are never read.
    """
    return bias.view_as(bias)


class _ZeroChange(torch.autograd.Function):
    """A change of zeros like x, with a bias, for the first block; they need a gradient if x does.

    With it all blocks have the same signature, and so one compilation.
    """

    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(x), x.new_zeros(x.shape[-1])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        """Save nothing."""

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> None:
        return None


def run_blocks(
    blocks: Sequence[Callable[..., tuple[Tensor, Tensor, Tensor]]],
    norm: nn.Module,
    x_BND: Tensor,
    mask: Mask | None = None,
    spread: Mask | None = None,
    paths: Tensor | None = None,
) -> Tensor:
    """Run all blocks and the norm after them, [B, N, D] -> [B, N, D].

    mask: let the last block compute only the rows of masked patches, [B, M, D]. spread: x holds
    rows [R, D] as `spread_rows` takes them, which the first block expands to tokens; with a mask,
    too, there must be more than one block. paths: fp32 [blocks, 2, B], see `path_factors`, without
    mask and spread.
    """
    x, (change, bias) = x_BND, _ZeroChange.apply(x_BND)
    if paths is not None:
        for block, paths_2B in zip(blocks, paths, strict=True):
            x, change, bias = block(x, change, None, paths=paths_2B)
        return _sum_and_norm(x, change, None, norm)[1]
    for block in blocks:
        first, last = block is blocks[0], block is blocks[-1]
        x, change, bias = block(x, change, bias, mask if last else None, spread if first else None)
    return _sum_and_norm(x, change, bias, norm)[1]


def block_outputs(
    blocks: nn.ModuleList,
    norm: nn.Module,
    x_BND: Tensor,
    wanted: Collection[int],
    paths: Tensor | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """Yield (number, output after `norm`, [B, N, D]) of the wanted blocks, numbered from 0.

    paths: see `run_blocks`.
    """
    x, (change, bias) = x_BND, _ZeroChange.apply(x_BND)
    for number, block in zip(range(max(wanted, default=-1) + 1), blocks, strict=False):
        if paths is None:
            x, change, bias = block(x, change, bias)
        else:
            x, change, bias = block(x, change, None, paths=paths[number])
        if number in wanted:
            yield number, _sum_and_norm(x, change, bias, norm)[1]


def sincos_positions(embed_dim: int, grid: tuple[int, int], first: int = 1) -> Tensor:
    """Compute fixed 2-D sin-cos positions of class tokens and a grid of patches (MAE, app. A.1).

    embed_dim: a multiple of 4. grid: patches (down, across). first: class tokens. Returns fp32
    [1, first + L, D]: zeros for each class token, then per patch sin and cos of its column, sin and
    cos of its row.
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
    return torch.cat([torch.zeros(first, embed_dim), table.float()])[None]


def init_weights(module: nn.Module) -> None:
    """Initialise one module as MAE does: xavier-uniform weights, zero biases, unit norms."""
    if isinstance(module, PatchEmbed):
        nn.init.xavier_uniform_(module.proj.weight.view(len(module.proj.weight), -1))
        nn.init.zeros_(module.proj.bias)
    elif isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)
