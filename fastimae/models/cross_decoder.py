"""The decoder of CrossMAE: each mask token attends to the latent, and to nothing else.

B = batch, L = patches of an image, N = tokens of the latent (class tokens, visible patches), M =
patches to predict, D = encoder width, E = decoder width, T = decoder blocks, F = feature maps of
the encoder (its input and what each block makes of it), h = heads, d = head width.

"Rethinking Patch Dependence for Masked Autoencoders" (Fu et al., 2025). As patches do not see each
other, any of them can be predicted, and no row is computed that nobody asks for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastimae.kernels import Mask
from fastimae.kernels.attention import cross_attention
from fastimae.models.vit import Block, block_outputs, last_bias, run_blocks

if TYPE_CHECKING:
    from fastimae.models.mae import MaskedAutoencoder


class CrossAttention(nn.Module):
    """Multi-head attention of some rows to others. late: see `fastimae.models.vit.Attention`."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x_BME: Tensor, memory_BNE: Tensor, *, late: bool = False) -> Tensor:
        """Attend all rows of x to all rows of the memory: [B, M, E]."""
        q_BMhd = self.q(x_BME).unflatten(-1, (self.num_heads, -1))
        kv_BN2hd = self.kv(memory_BNE).unflatten(-1, (2, self.num_heads, -1))
        k_BhNd, v_BhNd = kv_BN2hd.permute(2, 0, 3, 1, 4)
        out_BME = cross_attention(q_BMhd.transpose(1, 2), k_BhNd, v_BhNd)
        return F.linear(out_BME, self.proj.weight, last_bias(self.proj, late))


class CrossBlock(Block):
    """A `Block` whose attention is to a memory [B, N, E], which takes the place of a mask."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float = 4.0) -> None:
        super().__init__(dim, num_heads, mlp_ratio)
        self.attn = CrossAttention(dim, num_heads)

    def from_normed(
        self, x_BME: Tensor, normed_BME: Tensor, memory_BNE: Tensor, *_: None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Do what `forward` does, given the first sum and its norm."""
        return self.from_attended(x_BME, self.attn(normed_BME, memory_BNE, late=True))


def predict_rows(model: MaskedAutoencoder, memory: Tensor, rows: Mask | None) -> Tensor:
    """Decode the rows that a mask hides, [B, M, E], or all patches', [B, L, E].

    memory: the latent in the decoder's width, [B, N, E], which all blocks attend to, or
    [B, T, N, E], one for each block. The queries are mask tokens with the patches' positions; the
    latent has those of the encoder, and gets no others.
    """
    positions_LE = model.decoder_pos_embed[0, -model.patches :]
    positions = positions_LE if rows is None else F.embedding(rows.ids_masked, positions_LE)
    x_BME = (model.mask_token + positions).to(memory.dtype).expand(len(memory), -1, -1)
    blocks = model.decoder_blocks
    memories = memory.unbind(1) if memory.ndim == 4 else [memory] * len(blocks)
    attending = [_attending(*each) for each in zip(blocks, memories, strict=True)]
    return run_blocks(attending, model.decoder_norm, x_BME)


def _attending(block: CrossBlock, memory: Tensor) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    """Return the block as a function for `run_blocks`, which has masks where memories belong."""
    return lambda x, change, bias, *_: block(x, change, bias, memory)


def weighted_latents(
    blocks: nn.ModuleList,
    norm: nn.Module,
    x_BND: Tensor,
    weight_TF: Tensor,
    paths: Tensor | None = None,
) -> Tensor:
    """Run the encoder's blocks, and return a latent for each decoder block: [B, T, N, D].

    Each is the norm of its own weighted sum of feature maps (paper, "inter-block attention"). Ours:
    the norm, which is the encoder's last one, so that weights (0, ..., 0, 1) give the usual latent.
    paths: see `run_blocks`.
    """
    outputs = block_outputs(blocks, nn.Identity(), x_BND, range(len(blocks)), paths)
    maps_BFND = torch.stack([x_BND, *(output for _, output in outputs)], dim=1)
    weight_BTF = weight_TF.to(x_BND.dtype).expand(len(x_BND), -1, -1)
    return norm(torch.bmm(weight_BTF, maps_BFND.flatten(2)).unflatten(2, x_BND.shape[1:]))
