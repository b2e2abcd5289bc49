"""Three small masked autoencoders as other people might write them."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from fastimae.models.vit import sincos_positions

SIZE, PATCH, WIDTH, DECODER = 32, 8, 48, 32
PATCHES = (SIZE // PATCH) ** 2


class PlainAttention(nn.Module):
    """Textbook attention: scores, softmax, values."""

    def __init__(self, dim, num_heads, drop=0.0):
        super().__init__()
        self.num_heads, self.scale = num_heads, (dim // num_heads) ** -0.5
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.attn_drop = nn.Dropout(drop)

    def forward(self, x):
        b, n, c = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.num_heads, c // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        weights = self.attn_drop((q @ k.transpose(-2, -1) * self.scale).softmax(-1))
        return self.proj((weights @ v).transpose(1, 2).reshape(b, n, c))


class PlainBlock(nn.Module):
    def __init__(self, dim, num_heads, attention=PlainAttention, **options):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.attn = attention(dim, num_heads, **options)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PlainPatches(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch_size = (PATCH, PATCH)
        self.proj = nn.Conv2d(3, WIDTH, PATCH, PATCH)

    def forward(self, imgs):
        return self.proj(imgs).flatten(2).transpose(1, 2)


class PaperMAE(nn.Module):
    """MAE's public interface (He et al., 2021), with its own blocks."""

    def __init__(self, norm_pix_loss=True, **options):
        super().__init__()
        self.norm_pix_loss = norm_pix_loss
        self.build(lambda dim, heads: PlainBlock(dim, heads, **options), PlainPatches())

    def build(self, block, patch_embed):
        self.patch_embed = patch_embed
        self.cls_token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.mask_token = nn.Parameter(torch.randn(1, 1, DECODER))
        grid = (SIZE // PATCH, SIZE // PATCH)
        self.pos_embed = nn.Parameter(sincos_positions(WIDTH, grid), requires_grad=False)
        positions = sincos_positions(DECODER, grid)
        self.decoder_pos_embed = nn.Parameter(positions, requires_grad=False)
        self.blocks = nn.ModuleList(block(WIDTH, 3) for _ in range(2))
        self.norm = nn.LayerNorm(WIDTH, eps=1e-6)
        self.decoder_embed = nn.Linear(WIDTH, DECODER)
        self.decoder_blocks = nn.ModuleList([block(DECODER, 2)])
        self.decoder_norm = nn.LayerNorm(DECODER, eps=1e-6)
        self.decoder_pred = nn.Linear(DECODER, PATCH * PATCH * 3)

    def patchify(self, imgs):
        tiles = imgs.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH)
        return tiles.permute(0, 2, 3, 4, 5, 1).flatten(1, 2).flatten(2)

    def random_masking(self, x, mask_ratio):
        b, length, width = x.shape
        keep = int(length * (1 - mask_ratio))
        order = torch.rand(b, length, device=x.device).argsort(dim=1)
        ids_restore = order.argsort(dim=1)
        rows = order[:, :keep, None].expand(-1, -1, width)
        return x.gather(1, rows), (ids_restore >= keep).float(), ids_restore

    def forward_encoder(self, x, mask_ratio):
        x = self.patch_embed(x) + self.pos_embed[:, 1:]
        x, mask, ids_restore = self.random_masking(x, mask_ratio)
        first = (self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1)
        x = torch.cat([first, x], 1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x), mask, ids_restore

    def forward_decoder(self, x, ids_restore):
        x = self.decoder_embed(x)
        missing = ids_restore.shape[1] + 1 - x.shape[1]
        rows = torch.cat([x[:, 1:], self.mask_token.expand(len(x), missing, -1)], 1)
        rows = rows.gather(1, ids_restore[..., None].expand(-1, -1, x.shape[2]))
        x = torch.cat([x[:, :1], rows], 1) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            x = block(x)
        return self.decoder_pred(self.decoder_norm(x))[:, 1:]

    def forward_loss(self, imgs, pred, mask):
        target = self.patchify(imgs)
        if self.norm_pix_loss:
            centred = target - target.mean(-1, keepdim=True)
            target = centred / (target.var(-1, keepdim=True) + 1e-6).sqrt()
        return (((pred - target) ** 2).mean(-1) * mask).sum() / mask.sum()

    def forward(self, imgs, mask_ratio=0.75):
        latent, mask, ids_restore = self.forward_encoder(imgs, mask_ratio)
        pred = self.forward_decoder(latent, ids_restore)
        return self.forward_loss(imgs, pred, mask), pred, mask


class TimmMAE(PaperMAE):
    """With timm's blocks and patch embedding."""

    def __init__(self, norm_pix_loss=False, **options):
        from timm.layers import PatchEmbed
        from timm.models.vision_transformer import Block

        nn.Module.__init__(self)
        self.norm_pix_loss = norm_pix_loss
        options = {"mlp_ratio": 2.0, "qkv_bias": True, **options}
        self.build(
            lambda dim, heads: Block(dim, heads, **options), PatchEmbed(SIZE, PATCH, 3, WIDTH)
        )


class OwnAttention(nn.Module):
    """Attention with timm's names, no biases and a further argument."""

    def __init__(self, dim, num_heads):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim, bias=False)

    def forward(self, tokens, bias=None):
        parts = self.qkv(tokens).chunk(3, dim=-1)
        q, k, v = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in parts)
        scores = torch.einsum("bhid,bhjd->bhij", q, k) / math.sqrt(q.shape[-1])
        weights = F.softmax(scores if bias is None else scores + bias, dim=-1)
        return self.proj(torch.einsum("bhij,bhjd->bihd", weights, v).flatten(2))


class OtherAttention(nn.Module):
    """The same attention under other names."""

    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.to_qkv, self.to_out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x):
        q, k, v = self.to_qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.to_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class OwnMAE(PaperMAE):
    """Other argument names, keyword-only ones, its own attention, and a loss on all patches."""

    def __init__(self, norm_pix_loss=False):
        nn.Module.__init__(self)
        self.norm_pix_loss = norm_pix_loss
        kinds = {WIDTH: OwnAttention, DECODER: OtherAttention}
        self.build(lambda dim, heads: PlainBlock(dim, heads, kinds[dim]), PlainPatches())

    def random_masking(self, tokens, *, ratio=0.75):
        return super().random_masking(tokens, ratio)

    def forward_encoder(self, imgs, *, mask_ratio=0.75):
        tokens = self.patch_embed(imgs) + self.pos_embed[:, 1:]
        tokens, mask, ids_restore = self.random_masking(tokens, ratio=mask_ratio)
        first = self.cls_token + self.pos_embed[:, :1]
        tokens = torch.cat([first.expand(len(tokens), -1, -1), tokens], dim=1)
        for block in [*self.blocks, self.norm]:
            tokens = block(tokens)
        return tokens, mask, ids_restore

    def forward_loss(self, imgs, pred, mask):
        return F.mse_loss(pred, self.patchify(imgs)) + 0 * mask.sum()

    def forward(self, imgs, mask_ratio=0.75):
        latent, mask, ids_restore = self.forward_encoder(imgs=imgs, mask_ratio=mask_ratio)
        pred = self.forward_decoder(ids_restore=ids_restore, x=latent)
        return {"loss": self.forward_loss(imgs, pred, mask), "pred": pred, "mask": mask}
