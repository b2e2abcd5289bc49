"""The masked autoencoder: encoder on visible patches, decoder on all, one or two latent heads.

B = batch, L = patches of an image, K = visible, M = masked, N = tokens (1 + K in the encoder, 1 + L
in the decoder), R = B * (1 + K) + L rows (see `spread_rows`), P = patch size, C = channels,
V = P*P*C values of a patch, D = encoder width, E = decoder width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastimae.kernels import Mask, assemble_tokens, masked_l2, mix_patchify, random_masking
from fastimae.kernels.checks import check_ids, check_mask, check_shape, check_size
from fastimae.kernels.color_jitter import jitter_patchify
from fastimae.kernels.reference import patchify, unpatchify
from fastimae.kernels.rows import masked_rows
from fastimae.models.forward_features import Pool, forward_features
from fastimae.models.settings import HEAD_SPACE, MASK_RATIO, HeadSpace
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
SHARED_MASK_TOKENS_FROM = 0.5
"""Share of masked patches from which the first decoder block computes mask tokens once for all
samples; with fewer, spreading them to the samples costs about as much as it saves."""


class MaskedAutoencoder(nn.Module):
    """MAE (He et al., 2021); with `heads=2` the student of i-MAE (sections 3.1 to 3.3).

    State-dict names and shapes are MAE's. With two heads, `decoder_embed1` (subordinate image)
    and `decoder_embed2` (dominant image) map the latent to the decoder's width
    (`head_space="decoder"`, the released layout, without `decoder_embed`), or to the encoder's
    width, followed by a shared `decoder_embed` (`head_space="encoder"`). With one head, whose
    weights are the same in both spaces, `head_space` says where `split` ends: behind
    `decoder_embed` or before it.
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
        """Build the layers and initialise them from torch's random generator.

        img_size: pixels, a side or (height, width). patch_size: side of a patch in pixels.
        in_chans: channels of an image. embed_dim, depth, num_heads: width, blocks and attention
        heads of the encoder; decoder_embed_dim, decoder_depth, decoder_num_heads: of the decoder.
        mlp_ratio: width of the hidden layer of each MLP, over that of the block. norm_pix_loss:
        compare patches normalised by their own mean and deviation (MAE, section 3). heads: 1 for
        MAE, 2 for the student of i-MAE; head_space: see above. mean, std: per channel, in 0..1, by
        which uint8 images are normalised; None: ImageNet's for 3 channels, 0.5 otherwise.

        The defaults are ViT-L/16 (MAE, appendix A.1). Raises ValueError if sizes do not fit
        together; the message names the argument.
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
        self.pos_embed = _frozen_parameter(1 + patches, embed_dim)
        self.blocks = nn.ModuleList(Block(embed_dim, num_heads, mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(embed_dim, eps=LAYER_NORM_EPS)

        head_dim = decoder_embed_dim if head_space == "decoder" else embed_dim
        if heads == 2:
            self.decoder_embed1 = nn.Linear(embed_dim, head_dim)
            self.decoder_embed2 = nn.Linear(embed_dim, head_dim)
        if heads == 1 or head_space == "encoder":
            self.decoder_embed = nn.Linear(embed_dim, decoder_embed_dim)
        self.mask_token = nn.Parameter(torch.empty(1, 1, decoder_embed_dim))
        self.decoder_pos_embed = _frozen_parameter(1 + patches, decoder_embed_dim)
        self.decoder_blocks = nn.ModuleList(
            Block(decoder_embed_dim, decoder_num_heads, mlp_ratio) for _ in range(decoder_depth)
        )
        self.decoder_norm = nn.LayerNorm(decoder_embed_dim, eps=LAYER_NORM_EPS)
        self.decoder_pred = nn.Linear(decoder_embed_dim, patch_size**2 * in_chans)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise every parameter from torch's random generator."""
        self.pos_embed.copy_(sincos_positions(self.pos_embed.shape[-1], self.grid))
        self.decoder_pos_embed.copy_(sincos_positions(self.mask_token.shape[-1], self.grid))
        nn.init.normal_(self.cls_token, std=0.02)
        nn.init.normal_(self.mask_token, std=0.02)
        self.apply(init_weights)

    def forward(
        self, imgs: Tensor, mask_ratio: float = MASK_RATIO, mask: Mask | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruct images from a random share of their patches, with MAE's own interface.

        imgs: float [B, C, H, W] normalised, or uint8 [B, H, W, C]. mask: drawn from torch's
        random generator if not given. Returns the loss (fp32 scalar), pred for all patches
        [B, L, P*P*C], and mask float32 [B, L], 1 where masked.
        Raises ValueError for images of another size or layout, and for a mask that does not fit.
        """
        if self.heads == 2:
            raise TypeError("a model with two heads needs mixtures: use fastimae.objectives.IMAE")
        channels_last = imgs.dtype == torch.uint8
        check_size("imgs", imgs, self.img_size, self.in_chans, channels_last=channels_last)
        images = imgs if channels_last else imgs.permute(0, 2, 3, 1)
        if mask is None:
            key = torch.randint(2**62, (len(images),), device=images.device)
            mask = random_masking(key, self.grid, mask_ratio)
        (patches_BKV,) = self.visible_patches(images, mask)
        (head_BNE,) = self.split(self.encode(patches_BKV, mask.ids_keep))
        pred_BLV = self.decode(head_BNE, mask)
        target = torch.arange(len(images), device=images.device)
        pred_BMV = masked_rows(pred_BLV, mask)
        loss = self.reconstruction_loss(pred_BMV, images, target, mask.ids_masked)
        return loss, pred_BLV, mask.mask

    def forward_features(
        self,
        imgs: Tensor,
        pool: Pool = "tokens",
        layers: Sequence[int] | None = None,
        *,
        norm: bool = True,
    ) -> Tensor | list[Tensor]:
        """Compute features of whole images: no patch is masked.

        imgs: uint8 [B, H, W, C], or float [B, C, H, W] normalised. pool: "tokens" for the class
        token and all patches, [B, 1 + L, D], as timm's `forward_features`; "cls" for the class
        token, "mean" for the mean of the patches, [B, D]. layers: blocks to return instead of the
        last one, from 0, or negative from the end (-1 is the last); the result is then a list in
        that order. norm: apply the encoder's last norm, to each of the layers. A model that was
        fine-tuned on the mean has `fc_norm` instead, which applies to the mean only.

        Gradients reach the weights, and float images. The dtype is that of the weights, or of
        autocast. Raises ValueError for images of another size or layout, for layers that there are
        not, and for the class token of a model that has no norm for it.
        """
        return forward_features(self, imgs, pool, layers, norm)

    def visible_patches(
        self, images: Tensor, mask: Mask, *, jitter: Tensor | None = None, **mixture: Any
    ) -> tuple[Tensor, ...]:
        """Call `mix_patchify` with the dtype that the encoder computes in.

        mixture: partner, alpha and clean, for `mix_patchify`. jitter: factors for
        `jitter_patchify`, which is called instead. Raises ValueError for images of another size.
        """
        check_size("images", images, self.img_size, self.in_chans)
        device = images.device.type
        dtype = self.patch_embed.proj.weight.dtype
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        ids, pixels = mask.ids_keep, (self.patch_size, self.mean, self.std)
        if jitter is not None:
            return (jitter_patchify(images, ids, jitter, *pixels, dtype=dtype),)
        return mix_patchify(images, ids, *pixels, dtype=dtype, **mixture)

    def encode(self, patches: Tensor, ids_keep: Tensor) -> Tensor:
        """Encode visible patches [B, K, P*P*C] to latents [B, 1 + K, D], class token first.

        The latents have passed the encoder's last norm.
        """
        return run_blocks(self.blocks, self.norm, self.embed(patches, ids_keep))

    def embed(self, patches: Tensor, ids_keep: Tensor) -> Tensor:
        """Embed visible patches [B, K, P*P*C] and add positions: the encoder's input [B, N, D]."""
        check_shape("ids_keep", ids_keep, "B", "K")
        check_ids("ids_keep", ids_keep)
        check_shape("patches", patches, *ids_keep.shape, self.patch_size**2 * self.in_chans)
        x_BKD = self.patch_embed(patches)
        x_BKD = x_BKD + F.embedding(ids_keep, self.pos_embed[0, 1:].to(x_BKD.dtype))
        cls_11D = (self.cls_token + self.pos_embed[:, :1]).to(x_BKD.dtype)
        return torch.cat([cls_11D.expand(len(x_BKD), -1, -1), x_BKD], dim=1)

    def split(self, latent: Tensor) -> Tensor:
        """Apply each head to latents [B, 1 + K, D]: [heads, B, 1 + K, D or E], in `head_space`."""
        check_shape("latent", latent, "B", "1 + K", self.pos_embed.shape[-1])
        if self.heads == 1:
            return (latent if self.head_space == "encoder" else self.decoder_embed(latent))[None]
        return torch.stack([self.decoder_embed1(latent), self.decoder_embed2(latent)])

    def decode(self, head: Tensor, mask: Mask, masked_only: bool = False) -> Tensor:
        """Decode a head's output to predicted patches [B, L, P*P*C].

        masked_only: return only the masked rows, [B, M, P*P*C]; of the others, the last block
        computes nothing but keys and values.
        """
        check_mask(mask, len(head), self.grid[0] * self.grid[1])
        in_encoder_space = self.head_space == "encoder"
        width = (self.pos_embed if in_encoder_space else self.mask_token).shape[-1]
        check_shape("head", head, len(head), 1 + mask.ids_keep.shape[1], width)
        if in_encoder_space:
            head = self.decoder_embed(head)
        if self._shares_mask_tokens(mask, masked_only):
            x, spread = self._decoder_rows(head, mask), mask
        else:
            tokens = head, self.mask_token, self.decoder_pos_embed
            x, spread = assemble_tokens(*tokens, mask.ids_restore), None
        last = mask if masked_only else None
        x = run_blocks(self.decoder_blocks, self.decoder_norm, x, last, spread)
        if not masked_only:
            # Drop the class token. Contiguous, as adding a bias to strided rows is an extra pass.
            x = x[:, 1:].contiguous()
        return self.decoder_pred(x)

    def _shares_mask_tokens(self, mask: Mask, masked_only: bool) -> bool:
        """Return whether the first decoder block computes mask tokens once for all samples.

        It does so before its attention. A decoder's only block cannot, if it is to compute masked
        rows only.
        """
        enough = mask.ids_masked.shape[1] >= SHARED_MASK_TOKENS_FROM * mask.mask.shape[1]
        return enough and not (masked_only and len(self.decoder_blocks) == 1)

    def _decoder_rows(self, head: Tensor, mask: Mask) -> Tensor:
        """Return the decoder's input, with positions, as rows for `spread_rows`: [R, E]."""
        positions_NE = self.decoder_pos_embed[0]
        ids = F.pad(mask.ids_keep + 1, (1, 0))  # class token first
        visible = head + F.embedding(ids, positions_NE.to(head.dtype))
        masked_LE = self.mask_token[0] + positions_NE[1:]
        return torch.cat([visible.flatten(0, 1), masked_LE.to(head.dtype)])

    def reconstruction_loss(
        self,
        pred: Tensor,
        images: Tensor,
        target: Tensor,
        ids_masked: Tensor,
        branches: int | None = None,
        **boundary: Any,
    ) -> Tensor:
        """Compute the mean squared error of pred [B, M, P*P*C] on masked patches of images[target].

        With `branches` stacked in pred and target, return one error per branch. boundary:
        ignore_boundary, for `masked_l2`.
        """
        check_size("images", images, self.img_size, self.in_chans)
        return masked_l2(
            pred, images, target, ids_masked, self.patch_size, self.mean, self.std,
            self.norm_pix_loss, branches=branches, **boundary,
        )  # fmt: skip

    def patchify(self, imgs: Tensor) -> Tensor:
        """Cut imgs [B, C, H, W] into [B, L, P*P*C], pixels ordered (row, column, channel)."""
        check_shape("imgs", imgs, "B", self.in_chans, "H", "W")
        return patchify(imgs.permute(0, 2, 3, 1), self.patch_size)

    def unpatchify(self, x: Tensor) -> Tensor:
        """Assemble imgs [B, C, H, W] from patches [B, L, P*P*C]: inverts `patchify`."""
        size = self.patch_size**2 * self.in_chans
        check_shape("x", x, "B", self.grid[0] * self.grid[1], size)
        return unpatchify(x, self.grid, self.in_chans).permute(0, 3, 1, 2)


def _frozen_parameter(tokens: int, width: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(1, tokens, width), requires_grad=False)


def channel_statistics(
    in_chans: int, mean: Sequence[float] | None, std: Sequence[float] | None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and std per channel.

    None: ImageNet's for three channels, and 0.5 otherwise. Raises ValueError for a wrong
    number of values, or if a std is not positive.
    """
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
