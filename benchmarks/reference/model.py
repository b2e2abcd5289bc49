"""The usual MAE: float images, argsort masking, every patch embedded, unfused losses.

Parameter names are MAE's, so that weights of `fastimae.create_model` fit.
B = batch, L = patches, K = visible patches, D = width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PlainAttention(nn.Module):
    """Attention by matrix products or, as a careful user would do, by SDPA."""

    def __init__(self, dim: int, num_heads: int, sdpa: bool) -> None:
        super().__init__()
        self.num_heads, self.sdpa = num_heads, sdpa
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        b, n, d = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.num_heads, d // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        if self.sdpa:
            out = F.scaled_dot_product_attention(q, k, v)
        else:
            out = ((q @ k.transpose(-2, -1)) * q.shape[-1] ** -0.5).softmax(dim=-1) @ v
        return self.proj(out.transpose(1, 2).reshape(b, n, d))


class PlainBlock(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, dim: int, num_heads: int, sdpa: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.attn = PlainAttention(dim, num_heads, sdpa)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(dim, 4 * dim), "fc2": nn.Linear(4 * dim, dim)})

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))


class PlainMAE(nn.Module):
    """MAE with one latent head, or the student of i-MAE with two."""

    def __init__(
        self,
        *,
        img_size: int,
        patch_size: int,
        embed_dim: int,
        depth: int,
        num_heads: int,
        decoder_embed_dim: int,
        decoder_depth: int,
        decoder_num_heads: int,
        norm_pix_loss: bool = False,
        heads: int = 1,
        sdpa: bool = False,
    ) -> None:
        super().__init__()
        self.patch_size, self.norm_pix_loss, self.heads = patch_size, norm_pix_loss, heads
        tokens = (img_size // patch_size) ** 2 + 1
        conv = nn.Conv2d(3, embed_dim, kernel_size=patch_size, stride=patch_size)
        self.patch_embed = nn.ModuleDict({"proj": conv})
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, embed_dim), requires_grad=False)
        self.blocks = nn.ModuleList(PlainBlock(embed_dim, num_heads, sdpa) for _ in range(depth))
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6)
        for name in ("decoder_embed",) if heads == 1 else ("decoder_embed1", "decoder_embed2"):
            self.add_module(name, nn.Linear(embed_dim, decoder_embed_dim))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_embed_dim))
        self.decoder_pos_embed = nn.Parameter(
            torch.zeros(1, tokens, decoder_embed_dim), requires_grad=False
        )
        self.decoder_blocks = nn.ModuleList(
            PlainBlock(decoder_embed_dim, decoder_num_heads, sdpa) for _ in range(decoder_depth)
        )
        self.decoder_norm = nn.LayerNorm(decoder_embed_dim, eps=1e-6)
        self.decoder_pred = nn.Linear(decoder_embed_dim, patch_size**2 * 3)

    def encode(self, imgs: Tensor, ids_keep: Tensor) -> Tensor:
        """Embed all patches of imgs [B, 3, H, W], keep ids_keep int64 [B, K] -> [B, 1 + K, D]."""
        x = self.patch_embed["proj"](imgs).flatten(2).transpose(1, 2) + self.pos_embed[:, 1:]
        x = torch.gather(x, 1, ids_keep.unsqueeze(-1).repeat(1, 1, x.shape[2]))
        cls = (self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1)
        x = torch.cat([cls, x], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def decode(self, x: Tensor, ids_restore: Tensor) -> Tensor:
        """Decode a head's output [B, 1 + K, E] to predictions of all patches [B, L, P*P*3]."""
        missing = ids_restore.shape[1] + 1 - x.shape[1]
        full = torch.cat([x[:, 1:], self.mask_token.repeat(len(x), missing, 1)], dim=1)
        full = torch.gather(full, 1, ids_restore.unsqueeze(-1).repeat(1, 1, x.shape[2]))
        x = torch.cat([x[:, :1], full], dim=1) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            x = block(x)
        return self.decoder_pred(self.decoder_norm(x))[:, 1:]

    def pixel_loss(self, imgs: Tensor, pred: Tensor, mask: Tensor) -> Tensor:
        """Compute the mean squared error over masked patches; mask float [B, L], 1 where masked.

        All of their pixels count: there is no --ignore_boundary.
        """
        b, c, height, width = imgs.shape
        p = self.patch_size
        target = imgs.reshape(b, c, height // p, p, width // p, p).permute(0, 2, 4, 3, 5, 1)
        target = target.reshape(b, -1, p * p * c)
        if self.norm_pix_loss:
            mean, var = target.mean(dim=-1, keepdim=True), target.var(dim=-1, keepdim=True)
            target = (target - mean) / (var + 1e-6) ** 0.5
        return (((pred - target) ** 2).mean(dim=-1) * mask).sum() / mask.sum()

    def forward(self, imgs: Tensor, noise: Tensor, mask_ratio: float = 0.75) -> Tensor:
        """Compute MAE's loss of normalised imgs [B, 3, H, W]; small noise [B, L] stays visible."""
        ids_keep, ids_restore, mask = argsort_masking(noise, mask_ratio)
        latent = self.decoder_embed(self.encode(imgs, ids_keep))
        return self.pixel_loss(imgs, self.decode(latent, ids_restore), mask)


def argsort_masking(noise: Tensor, mask_ratio: float) -> tuple[Tensor, Tensor, Tensor]:
    """Draw ids_keep int64 [B, K], ids_restore int64 [B, L], mask float [B, L] from noise [B, L]."""
    keep = int(noise.shape[1] * (1 - mask_ratio))
    ids_shuffle = torch.argsort(noise, dim=1)
    ids_restore = torch.argsort(ids_shuffle, dim=1)
    mask = torch.ones_like(noise)
    mask[:, :keep] = 0
    return ids_shuffle[:, :keep], ids_restore, torch.gather(mask, 1, ids_restore)


def plain_imae_loss(
    student: PlainMAE,
    teacher: PlainMAE,
    imgs: Tensor,
    partner: Tensor,
    alpha: float,
    noise: Tensor,
    mask_ratio: float = 0.75,
) -> Tensor:
    """Compute i-MAE's loss of normalised imgs [B, 3, H, W]; see `mixture` and `mixture_loss`."""
    return mixture_loss(student, teacher, *mixture(imgs, partner, alpha), noise, mask_ratio)


def mixture(imgs: Tensor, partner: Tensor, alpha: float) -> tuple[Tensor, Tensor, Tensor]:
    """Mix float images, with weights alpha and 1 - alpha; return mixtures, images and partners.

    imgs: [B, 3, H, W]. partner: int64 [B], row partner[i] is mixed into row i.
    """
    other = imgs[partner]
    return alpha * imgs + (1 - alpha) * other, imgs, other


def mixture_loss(
    student: PlainMAE,
    teacher: PlainMAE,
    mixed: Tensor,
    imgs: Tensor,
    other: Tensor,
    noise: Tensor,
    mask_ratio: float = 0.75,
) -> Tensor:
    """Compute i-MAE's loss, with two decoder and two teacher passes, one after the other."""
    ids_keep, ids_restore, mask = argsort_masking(noise, mask_ratio)
    latent = student.encode(mixed, ids_keep)
    loss = torch.zeros((), device=imgs.device)
    for head, target in ((student.decoder_embed1, imgs), (student.decoder_embed2, other)):
        predicted = head(latent)
        loss = loss + student.pixel_loss(target, student.decode(predicted, ids_restore), mask)
        with torch.no_grad():
            known = teacher.decoder_embed(teacher.encode(target, ids_keep))
        loss = loss + F.mse_loss(predicted, known)
    return loss
