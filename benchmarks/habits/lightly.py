"""lightly's MAE in its shape: a timm ViT that is told what to keep, a decoder, a loss outside.

Class tokens count as tokens in its indices: token 0 is always kept.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.habits.base import Habit, Size
from benchmarks.habits.timm_vits import vit
from fastimae.models.vit import sincos_positions


class MaskedViT(nn.Module):
    """Encodes the kept tokens with the parts of a timm ViT."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.vit = vit(size)

    def encode(self, images: Tensor, idx_keep: Tensor) -> Tensor:
        x = self.vit.patch_embed(images)
        x = torch.cat([self.vit.cls_token.expand(len(x), -1, -1), x], dim=1)
        x = take(self.vit.pos_drop(x + self.vit.pos_embed), idx_keep)
        return self.vit.norm(self.vit.blocks(self.vit.norm_pre(x)))


class Decoder(nn.Module):
    """The decoder; who calls it puts the tokens together."""

    def __init__(self, size: Size) -> None:
        from timm.models.vision_transformer import Block

        super().__init__()
        width, grid = size.decoder_width, (size.img_size // size.patch_size,) * 2
        self.decoder_embed = nn.Linear(size.width, width)
        self.mask_token = nn.Parameter(torch.randn(1, 1, width))
        positions = sincos_positions(width, grid)
        self.decoder_pos_embed = nn.Parameter(positions, requires_grad=False)
        blocks = (
            Block(width, size.decoder_heads, qkv_bias=True) for _ in range(size.decoder_depth)
        )
        self.decoder_blocks = nn.Sequential(*blocks)
        self.decoder_norm = nn.LayerNorm(width, eps=1e-6)
        self.decoder_pred = nn.Linear(width, 3 * size.patch_size**2)

    def decode(self, x: Tensor) -> Tensor:
        return self.decoder_norm(self.decoder_blocks(x + self.decoder_pos_embed))


class LightlyMAE(nn.Module):
    """Returns predictions and targets of masked patches; the criterion is the caller's."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.patch_size, self.mask_ratio = size.patch_size, 0.75
        self.backbone, self.decoder = MaskedViT(size), Decoder(size)
        self.sequence_length = size.patches + 1

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        idx_keep, idx_mask = self.draw(images)
        x = self.decoder.decoder_embed(self.backbone.encode(images, idx_keep))
        tokens = self.decoder.mask_token.repeat(len(images), self.sequence_length, 1)
        tokens = tokens.scatter(1, idx_keep[..., None].expand_as(x), x.type_as(tokens))
        pred = self.decoder.decoder_pred(take(self.decoder.decode(tokens), idx_mask))
        side = self.patch_size
        tiles = images.unfold(2, side, side).unfold(3, side, side)
        patches = tiles.permute(0, 2, 3, 4, 5, 1).flatten(1, 2).flatten(2)
        return pred, take(patches, idx_mask - 1)

    def draw(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return (idx_keep, idx_mask), int64; token 0 is kept."""
        noise = torch.rand(len(images), self.sequence_length, device=images.device)
        noise[:, 0] = -1
        keep = int(self.sequence_length * (1 - self.mask_ratio))
        return noise.argsort(dim=1).tensor_split([keep], dim=1)


def take(tokens: Tensor, index: Tensor) -> Tensor:
    """Select tokens [B, N, D] by index [B, R]."""
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[2]))


def criterion_outside(model: nn.Module, imgs: Tensor) -> tuple[Tensor, ...]:
    """Return the loss, predictions, targets."""
    pred, target = model(imgs)
    return F.mse_loss(pred, target), pred, target


HABITS = (Habit("lightly's MAE, its shape", LightlyMAE, criterion_outside, "timm"),)
