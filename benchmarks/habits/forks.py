"""Forks of MAE, each with one thing that forks change."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.habits.base import Habit, Size, as_returned
from benchmarks.habits.paper_mae import PaperMAE


class MaskUnits(PaperMAE):
    """Masks squares of 2 x 2 patches: the mask's size is decoupled from that of patches."""

    def random_masking(self, x: Tensor, mask_ratio: float) -> tuple[Tensor, Tensor, Tensor]:
        side = self.size.img_size // self.size.patch_size
        noise = torch.rand(len(x), side // 2, side // 2, device=x.device)
        noise = noise.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2).flatten(1)
        keep = 4 * int(side**2 // 4 * (1 - mask_ratio))
        ids_shuffle = noise.argsort(dim=1, stable=True)
        ids_restore = ids_shuffle.argsort(dim=1)
        rows = ids_shuffle[:, :keep, None].expand(-1, -1, x.shape[2])
        return x.gather(1, rows), (ids_restore >= keep).float(), ids_restore


class CrossAttention(nn.Module):
    """Attention of some tokens to others."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.q, self.kv = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        q = self.q(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        k, v = self.kv(memory).unflatten(-1, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class CrossBlock(nn.Module):
    """A block whose tokens read the encoder's, never each other."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=1e-6) for _ in range(2))
        self.cross_attn = CrossAttention(width, heads)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        x = x + self.cross_attn(self.norm1(x), memory)
        return x + self.mlp(self.norm2(x))


class CrossDecoder(PaperMAE):
    """Predicts masked patches alone, from mask tokens that attend to the encoder's output."""

    def __init__(self, size: Size) -> None:
        super().__init__(size)
        width, heads = size.decoder_width, size.decoder_heads
        blocks = (CrossBlock(width, heads) for _ in range(size.decoder_depth))
        self.decoder_blocks = nn.ModuleList(blocks)

    def forward_decoder(self, x: Tensor, ids_restore: Tensor) -> Tensor:
        memory = self.decoder_embed(x)
        masked = ids_restore.argsort(dim=1)[:, x.shape[1] - 1 :]
        x = self.mask_token + self.decoder_pos_embed[0, 1:][masked]
        for block in self.decoder_blocks:
            x = block(x, memory)
        return self.decoder_pred(self.decoder_norm(x))

    def forward(self, imgs: Tensor, mask_ratio: float = 0.75) -> tuple[Tensor, Tensor, Tensor]:
        latent, mask, ids_restore = self.forward_encoder(imgs, mask_ratio)
        pred = self.forward_decoder(latent, ids_restore)
        order = ids_restore.argsort(dim=1)[:, latent.shape[1] - 1 :]
        target = self.patchify(imgs)
        target = target.gather(1, order[..., None].expand(-1, -1, target.shape[2]))
        return F.mse_loss(pred, target), pred, mask


class SecondImage(PaperMAE):
    """Encodes a second image of the same scene whole, and lets the decoder see both."""

    def forward(
        self, imgs: Tensor, other: Tensor, mask_ratio: float = 0.75
    ) -> tuple[Tensor, Tensor, Tensor]:
        latent, mask, ids_restore = self.forward_encoder(imgs, mask_ratio)
        whole = self.patch_embed(other) + self.pos_embed[:, 1:]
        for block in self.blocks:
            whole = block(whole)
        latent = latent + self.norm(whole).mean(dim=1, keepdim=True)
        pred = self.forward_decoder(latent, ids_restore)
        return self.forward_loss(imgs, pred, mask), pred, mask


class Coordinates(PaperMAE):
    """Adds where an image was taken to its tokens; its encoder takes two further numbers."""

    def __init__(self, size: Size) -> None:
        super().__init__(size)
        self.where = nn.Linear(2, size.width)

    def forward_encoder(
        self, x: Tensor, mask_ratio: float, coordinates: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        x = self.patch_embed(x) + self.pos_embed[:, 1:] + self.where(coordinates)[:, None]
        x, mask, ids_restore = self.random_masking(x, mask_ratio)
        first = (self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1)
        x = torch.cat([first, x], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x), mask, ids_restore

    def forward(
        self, imgs: Tensor, coordinates: Tensor, mask_ratio: float = 0.75
    ) -> tuple[Tensor, Tensor, Tensor]:
        latent, mask, ids_restore = self.forward_encoder(imgs, mask_ratio, coordinates)
        pred = self.forward_decoder(latent, ids_restore)
        return self.forward_loss(imgs, pred, mask), pred, mask


class OtherNames(PaperMAE):
    """The same methods under other names, and predictions in a dict."""

    encode, forward_encoder = PaperMAE.forward_encoder, None
    decode, forward_decoder = PaperMAE.forward_decoder, None
    reconstruction_loss, forward_loss = PaperMAE.forward_loss, None

    def forward(self, images: Tensor, ratio: float = 0.75) -> dict[str, Tensor]:
        latent, mask, restore = self.encode(images, ratio)
        pred = self.decode(latent, restore)
        return {"loss": self.reconstruction_loss(images, pred, mask), "pred": pred, "mask": mask}


def with_other_image(model: nn.Module, imgs: Tensor) -> tuple[Tensor, ...]:
    """Give each image the mirrored one as its second."""
    return model(imgs, imgs.flip(3))


def with_coordinates(model: nn.Module, imgs: Tensor) -> tuple[Tensor, ...]:
    """Give each image a place."""
    return model(imgs, torch.linspace(-1, 1, 2 * len(imgs), device=imgs.device).view(-1, 2))


def with_ratios(model: nn.Module, imgs: Tensor) -> tuple[Tensor, ...]:
    """Call the model with two mask ratios, as curricula of masks do."""
    (easy, *_), (hard, pred, mask) = model(imgs, mask_ratio=0.5), model(imgs, mask_ratio=0.75)
    return easy + hard, pred, mask


def from_dict(model: nn.Module, imgs: Tensor) -> tuple[Tensor, ...]:
    """Unpack what `OtherNames` returns."""
    return tuple(model(imgs).values())


_several = functools.partial(PaperMAE, class_tokens=4)
_six = functools.partial(PaperMAE, channels=6)
HABITS = (
    Habit("MAE on timm's blocks", PaperMAE, as_returned, "timm"),
    Habit("MAE, mask ratio as an argument", PaperMAE, with_ratios, "timm"),
    Habit("MAE, mask units of 2 x 2 patches", MaskUnits, as_returned, "timm"),
    Habit("MAE, cross-attention decoder", CrossDecoder, as_returned, "timm"),
    Habit("MAE, four class tokens", _several, as_returned, "timm"),
    Habit("MAE, six channels", _six, as_returned, "timm", channels=6),
    Habit("MAE, a second image", SecondImage, with_other_image, "timm"),
    Habit("MAE, coordinates", Coordinates, with_coordinates, "timm"),
    Habit("MAE, other names", OtherNames, from_dict, "timm"),
)
