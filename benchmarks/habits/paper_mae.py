"""MAE with the public names of its authors' code, on timm's blocks: what forks start from.

Written from the paper (He et al., 2021) and its interface.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.habits.base import Size
from fastimae.models.vit import sincos_positions


class PaperMAE(nn.Module):
    """random_masking, forward_encoder, forward_decoder, forward_loss.

    channels: of images. class_tokens: how many come before the patches.
    """

    def __init__(self, size: Size, *, channels: int = 3, class_tokens: int = 1) -> None:
        from timm.layers import PatchEmbed
        from timm.models.vision_transformer import Block

        super().__init__()
        self.size, self.in_chans, self.norm_pix_loss = size, channels, True
        width, inner = size.width, size.decoder_width
        self.patch_embed = PatchEmbed(size.img_size, size.patch_size, channels, width)
        self.cls_token = nn.Parameter(torch.randn(1, class_tokens, width))
        self.pos_embed = _positions(size, width, class_tokens)
        self.blocks = nn.ModuleList(
            Block(width, size.heads, qkv_bias=True) for _ in range(size.depth)
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.decoder_embed = nn.Linear(width, inner)
        self.mask_token = nn.Parameter(torch.randn(1, 1, inner))
        self.decoder_pos_embed = _positions(size, inner, class_tokens)
        self.decoder_blocks = nn.ModuleList(
            Block(inner, size.decoder_heads, qkv_bias=True) for _ in range(size.decoder_depth)
        )
        self.decoder_norm = nn.LayerNorm(inner, eps=1e-6)
        self.decoder_pred = nn.Linear(inner, channels * size.patch_size**2)

    def patchify(self, imgs: Tensor) -> Tensor:
        side = self.patch_embed.patch_size[0]
        batch, channels, height, width = imgs.shape
        x = imgs.reshape(batch, channels, height // side, side, width // side, side)
        return x.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, side * side * channels)

    def random_masking(self, x: Tensor, mask_ratio: float) -> tuple[Tensor, Tensor, Tensor]:
        batch, length, width = x.shape
        keep = int(length * (1 - mask_ratio))
        ids_shuffle = torch.rand(batch, length, device=x.device).argsort(dim=1)
        ids_restore = ids_shuffle.argsort(dim=1)
        rows = ids_shuffle[:, :keep, None].expand(-1, -1, width)
        return x.gather(1, rows), (ids_restore >= keep).float(), ids_restore

    def forward_encoder(self, x: Tensor, mask_ratio: float) -> tuple[Tensor, Tensor, Tensor]:
        first = self.cls_token.shape[1]
        x = self.patch_embed(x) + self.pos_embed[:, first:]
        x, mask, ids_restore = self.random_masking(x, mask_ratio)
        tokens = (self.cls_token + self.pos_embed[:, :first]).expand(len(x), -1, -1)
        x = torch.cat([tokens, x], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x), mask, ids_restore

    def forward_decoder(self, x: Tensor, ids_restore: Tensor) -> Tensor:
        first = self.cls_token.shape[1]
        x = self.decoder_embed(x)
        missing = ids_restore.shape[1] + first - x.shape[1]
        rows = torch.cat([x[:, first:], self.mask_token.expand(len(x), missing, -1)], dim=1)
        rows = rows.gather(1, ids_restore[..., None].expand(-1, -1, x.shape[2]))
        x = torch.cat([x[:, :first], rows], dim=1) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            x = block(x)
        return self.decoder_pred(self.decoder_norm(x))[:, first:]

    def forward_loss(self, imgs: Tensor, pred: Tensor, mask: Tensor) -> Tensor:
        target = self.patchify(imgs)
        if self.norm_pix_loss:
            mean, var = target.mean(dim=-1, keepdim=True), target.var(dim=-1, keepdim=True)
            target = (target - mean) / (var + 1e-6) ** 0.5
        loss = ((pred - target) ** 2).mean(dim=-1)
        return (loss * mask).sum() / mask.sum()

    def forward(self, imgs: Tensor, mask_ratio: float = 0.75) -> tuple[Tensor, Tensor, Tensor]:
        latent, mask, ids_restore = self.forward_encoder(imgs, mask_ratio)
        pred = self.forward_decoder(latent, ids_restore)
        return self.forward_loss(imgs, pred, mask), pred, mask


def _positions(size: Size, width: int, class_tokens: int) -> nn.Parameter:
    """Make fixed positions, zeros for class tokens."""
    table = sincos_positions(width, (size.img_size // size.patch_size,) * 2)
    first = torch.zeros(1, class_tokens, width)
    return nn.Parameter(torch.cat([first, table[:, 1:]], dim=1), requires_grad=False)
