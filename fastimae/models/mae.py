"""The masked autoencoder: encoder on visible patches, decoder on all, one or two latent heads.

B = batch, L = patches of an image, K = visible, M = masked, D = encoder width, E = decoder width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastimae.kernels import Mask, assemble_tokens, masked_l2, mix_patchify, random_masking
from fastimae.kernels.checks import check_ids, check_mask, check_shape, check_size
from fastimae.kernels.reference import patchify, unpatchify
from fastimae.kernels.rows import masked_rows
from fastimae.models.vit import (
    LAYER_NORM_EPS,
    Block,
    PatchEmbed,
    init_weights,
    run_blocks,
    sincos_positions,
)
from fastimae.settings import RGB, ConfigError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
HeadSpace = Literal["decoder", "encoder"]
HEAD_SPACE: HeadSpace = "decoder"
MASK_RATIO = 0.75


class MaskedAutoencoder(nn.Module):
    """MAE (He et al., 2021); with `heads=2` the student of i-MAE (sections 3.1 to 3.3).

    State-dict names and shapes are MAE's. With two heads, `decoder_embed1` (subordinate image)
    and `decoder_embed2` (dominant image) split the latent: into the decoder's width
    (`head_space="decoder"`, the released layout, no `decoder_embed`), or within the encoder's
    width, followed by a shared `decoder_embed` (`head_space="encoder"`).
    """

    def __init__(
        self,
        *,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        in_chans: int = RGB,
        embed_dim: int = 1024,
        depth: int = 24,
        num_heads: int = 16,
        decoder_embed_dim: int = 512,
        decoder_depth: int = 8,
        decoder_num_heads: int = 16,
        mlp_ratio: float = 4.0,
        norm_pix_loss: bool = False,
        heads: Literal[1, 2] = 1,
        head_space: HeadSpace = HEAD_SPACE,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        """img_size: pixels, a side or (height, width). mean, std: of each channel, in 0..1.

        Raises ValueError where sizes do not fit together; the message names the argument.
        """
        super().__init__()
        self.img_size = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
        self.mean, self.std = channel_statistics(in_chans, mean, std)
        _check_sizes(self.img_size, patch_size, embed_dim, num_heads)
        _check_sizes(self.img_size, patch_size, decoder_embed_dim, decoder_num_heads, "decoder_")
        self.patch_size, self.in_chans = patch_size, in_chans
        self.grid = (self.img_size[0] // patch_size, self.img_size[1] // patch_size)
        self.norm_pix_loss = norm_pix_loss
        self.heads, self.head_space = heads, head_space
        patches = self.grid[0] * self.grid[1]

        self.patch_embed = PatchEmbed(patch_size=patch_size, in_chans=in_chans, embed_dim=embed_dim)
        self.cls_token = nn.Parameter(torch.empty(1, 1, embed_dim))
        self.pos_embed = _fixed(1 + patches, embed_dim)
        self.blocks = nn.ModuleList(Block(embed_dim, num_heads, mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(embed_dim, eps=LAYER_NORM_EPS)

        head_dim = decoder_embed_dim if head_space == "decoder" else embed_dim
        if heads == 2:
            self.decoder_embed1 = nn.Linear(embed_dim, head_dim)
            self.decoder_embed2 = nn.Linear(embed_dim, head_dim)
        if heads == 1 or head_space == "encoder":
            self.decoder_embed = nn.Linear(embed_dim, decoder_embed_dim)
        self.mask_token = nn.Parameter(torch.empty(1, 1, decoder_embed_dim))
        self.decoder_pos_embed = _fixed(1 + patches, decoder_embed_dim)
        self.decoder_blocks = nn.ModuleList(
            Block(decoder_embed_dim, decoder_num_heads, mlp_ratio) for _ in range(decoder_depth)
        )
        self.decoder_norm = nn.LayerNorm(decoder_embed_dim, eps=LAYER_NORM_EPS)
        self.decoder_pred = nn.Linear(decoder_embed_dim, patch_size**2 * in_chans)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Fill every parameter anew, from torch's random generator."""
        self.pos_embed.copy_(sincos_positions(self.pos_embed.shape[-1], self.grid))
        self.decoder_pos_embed.copy_(sincos_positions(self.mask_token.shape[-1], self.grid))
        nn.init.normal_(self.cls_token, std=0.02)
        nn.init.normal_(self.mask_token, std=0.02)
        self.apply(init_weights)

    def forward(
        self, imgs: Tensor, mask_ratio: float = MASK_RATIO, mask: Mask | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """MAE's own call: reconstruct the images from a random share of their patches.

        imgs: float [B, C, H, W] normalised, or uint8 [B, H, W, C]. mask: drawn from torch's
        random generator where not given. Returns the loss (fp32 scalar), pred for all patches
        [B, L, P*P*C], and mask float32 [B, L], 1 where masked.
        Raises ValueError for images of another size or layout, and for a mask of other images.
        """
        if self.heads == 2:
            raise TypeError("two heads reconstruct a mixture: use fastimae.objectives.IMAE")
        channels_last = imgs.dtype == torch.uint8
        check_size("imgs", imgs, self.img_size, self.in_chans, channels_last=channels_last)
        images = imgs if channels_last else imgs.permute(0, 2, 3, 1)
        if mask is None:
            key = torch.randint(2**62, (len(images),), device=images.device)
            mask = random_masking(key, self.grid, mask_ratio)
        (patches,) = self.visible_patches(images, mask)
        pred = self.decode(self.split(self.encode(patches, mask.ids_keep))[0], mask)
        own = torch.arange(len(images), device=images.device)
        loss = self.reconstruction_loss(masked_rows(pred, mask), images, own, mask.ids_masked)
        return loss, pred, mask.mask

    def visible_patches(self, images: Tensor, mask: Mask, **mixture: Any) -> tuple[Tensor, ...]:
        """`mix_patchify` in the number format that the encoder computes in; mixture: its partner,
        alpha and clean. Raises ValueError for images of another size than the model's."""
        check_size("images", images, self.img_size, self.in_chans)
        device = images.device.type
        dtype = self.patch_embed.proj.weight.dtype
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        return mix_patchify(
            images, mask.ids_keep, self.patch_size, self.mean, self.std, dtype=dtype, **mixture
        )

    def encode(self, patches: Tensor, ids_keep: Tensor) -> Tensor:
        """Visible patches [B, K, P*P*C] -> normalised latents [B, 1 + K, D], class token first."""
        check_shape("ids_keep", ids_keep, "B", "K")
        check_ids("ids_keep", ids_keep)
        check_shape("patches", patches, *ids_keep.shape, self.patch_size**2 * self.in_chans)
        x = self.patch_embed(patches)
        x = x + F.embedding(ids_keep, self.pos_embed[0, 1:].to(x.dtype))
        cls = (self.cls_token + self.pos_embed[:, :1]).to(x.dtype)
        x = torch.cat([cls.expand(len(x), -1, -1), x], dim=1)
        return self.norm(run_blocks(self.blocks, x))

    def split(self, latent: Tensor) -> Tensor:
        """Latents [B, 1 + K, D] -> what each head makes of them [heads, B, 1 + K, D or E]."""
        check_shape("latent", latent, "B", "1 + K", self.pos_embed.shape[-1])
        if self.heads == 1:
            return self.decoder_embed(latent)[None]
        return torch.stack([self.decoder_embed1(latent), self.decoder_embed2(latent)])

    def decode(self, head: Tensor, mask: Mask, masked_only: bool = False) -> Tensor:
        """A head's output -> predicted patches [B, L, P*P*C].

        masked_only: return the masked rows only, [B, M, P*P*C]; the others are not computed
        past the keys and values of the last block.
        """
        check_mask(mask, len(head), self.grid[0] * self.grid[1])
        decoder = self.heads == 1 or self.head_space == "decoder"
        width = (self.mask_token if decoder else self.pos_embed).shape[-1]
        check_shape("head", head, len(head), 1 + mask.ids_keep.shape[1], width)
        if self.heads == 2 and self.head_space == "encoder":
            head = self.decoder_embed(head)
        x = assemble_tokens(head, self.mask_token, self.decoder_pos_embed, mask.ids_restore)
        x = run_blocks(self.decoder_blocks, x, mask if masked_only else None)
        if not masked_only:
            x = x[:, 1:]  # without the class token
        return self.decoder_pred(self.decoder_norm(x))

    def reconstruction_loss(
        self,
        pred: Tensor,
        images: Tensor,
        target: Tensor,
        ids_masked: Tensor,
        branches: int | None = None,
    ) -> Tensor:
        """Mean squared error of pred [B, M, P*P*C] to the masked patches of images[target]; with
        `branches` stacked in pred and target, one for each."""
        check_size("images", images, self.img_size, self.in_chans)
        return masked_l2(
            pred, images, target, ids_masked, self.patch_size, self.mean, self.std,
            self.norm_pix_loss, branches=branches,
        )  # fmt: skip

    def patchify(self, imgs: Tensor) -> Tensor:
        """imgs [B, C, H, W] -> [B, L, P*P*C], pixels ordered (row, column, channel)."""
        check_shape("imgs", imgs, "B", self.in_chans, "H", "W")
        return patchify(imgs.permute(0, 2, 3, 1), self.patch_size)

    def unpatchify(self, x: Tensor) -> Tensor:
        """[B, L, P*P*C] -> imgs [B, C, H, W], the inverse of `patchify`."""
        size = self.patch_size**2 * self.in_chans
        check_shape("x", x, "B", self.grid[0] * self.grid[1], size)
        return unpatchify(x, self.grid, self.in_chans).permute(0, 3, 1, 2)


def _fixed(tokens: int, width: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(1, tokens, width), requires_grad=False)


def channel_statistics(
    in_chans: int, mean: Sequence[float] | None, std: Sequence[float] | None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """ImageNet's where the image has three channels, 0.5 otherwise, unless given."""
    mean = mean or (IMAGENET_MEAN if in_chans == 3 else (0.5,) * in_chans)
    std = std or (IMAGENET_STD if in_chans == 3 else (0.5,) * in_chans)
    for name, values in (("mean", mean), ("std", std)):
        if len(values) != in_chans:
            raise ValueError(f"{name} has {len(values)} values for {in_chans} channels (in_chans)")
    if min(std) <= 0:
        raise ValueError(f"std must be positive, not {tuple(std)}")
    return tuple(mean), tuple(std)


def _check_sizes(
    img_size: tuple[int, int], patch_size: int, width: int, num_heads: int, prefix: str = ""
) -> None:
    if img_size[0] % patch_size or img_size[1] % patch_size:
        raise ConfigError(
            f"--input_size {img_size[0]}x{img_size[1]} is not a multiple of the patch size "
            f"{patch_size} of the --model"
        )
    if width % num_heads:
        raise ValueError(
            f"{prefix}embed_dim {width} is not a multiple of {prefix}num_heads {num_heads}"
        )
    if width % 4:
        raise ValueError(f"{prefix}embed_dim {width} is not a multiple of 4")
