"""The masked autoencoder: encoder on visible patches, decoder on all, one or two latent heads.

B = batch, L = patches of an image, K = visible, M = masked, n = class tokens, N = tokens (n + K in
the encoder, n + L in the decoder), R = B * (n + K) + L rows (see `spread_rows`), P = patch size,
C = channels, V = P*P*C values of a patch, D = encoder width, E = decoder width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastimae.kernels import Mask, assemble_tokens, masked_l2, random_masking
from fastimae.kernels.checks import check_mask, check_shape, check_size
from fastimae.kernels.rows import masked_rows
from fastimae.models.cross_decoder import CrossBlock, predict_rows, weighted_latents
from fastimae.models.encoder import TOKEN_STD, Encoder
from fastimae.models.settings import (
    DECODER_ATTENTION,
    HEAD_SPACE,
    MASK_RATIO,
    DecoderAttention,
    HeadSpace,
    ModelSettings,
)
from fastimae.models.sizes import check_sizes
from fastimae.models.vit import LAYER_NORM_EPS, Block, init_weights, run_blocks
from fastimae.settings import RGB, ConfigError

SHARED_MASK_TOKENS_FROM = 0.5
"""Share of masked patches from which the first decoder block computes mask tokens once for all
samples; with fewer, spreading them to the samples costs about as much as it saves."""


class MaskedAutoencoder(Encoder):
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
        decoder_attention: DecoderAttention = DECODER_ATTENTION,
        weighted_feature_maps: bool = False,
        mlp_ratio: float = 4.0,
        class_tokens: int = ModelSettings.class_tokens,
        drop_path: float = ModelSettings.drop_path,
        norm_pix_loss: bool = False,
        heads: Literal[1, 2] = 1,
        head_space: HeadSpace = HEAD_SPACE,
        decoder: bool = True,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        """Build the layers and initialise them from torch's random generator.

        img_size: pixels, a side or (height, width). patch_size: side of a patch in pixels.
        in_chans: channels of an image. embed_dim, depth, num_heads: width, blocks and attention
        heads of the encoder; decoder_embed_dim, decoder_depth, decoder_num_heads: of the decoder.
        decoder_attention: "self" for MAE's decoder, in which all tokens attend to each other;
        "cross" for CrossMAE's, in which mask tokens attend to the latent. weighted_feature_maps:
        let each block of the latter attend to its own sum of all encoder blocks' outputs.
        mlp_ratio: width of the hidden layer of each MLP, over that of the block. class_tokens: n,
        tokens before the patches', in encoder and decoder; 8 in Pixio. drop_path: stochastic depth
        of the encoder in training, see `path_factors`. norm_pix_loss: compare patches normalised by
        their own mean and deviation (MAE, section 3). heads: 1 for MAE, 2 for the student of i-MAE;
        head_space: see above. decoder: False makes an encoder alone, which reconstructs nothing.
        mean, std: per channel, in 0..1, by which uint8 images are normalised; None: ImageNet's for
        3 channels, 0.5 otherwise.

        The defaults are ViT-L/16 (MAE, appendix A.1). Raises ValueError if sizes do not fit
        together; the message names the argument.
        """
        super().__init__(
            img_size=img_size, patch_size=patch_size, in_chans=in_chans, embed_dim=embed_dim,
            depth=depth, num_heads=num_heads, mlp_ratio=mlp_ratio, mean=mean, std=std,
            class_tokens=class_tokens, drop_path=drop_path,
        )  # fmt: skip
        self.norm_pix_loss = norm_pix_loss
        self.heads, self.head_space, self.has_decoder = heads, head_space, decoder
        self.decoder_attention = decoder_attention
        self.weighted_feature_maps = weighted_feature_maps
        if weighted_feature_maps and (heads == 2 or decoder_attention == "self"):
            raise ConfigError(
                "--weighted_feature_maps needs --decoder_attention cross and one head: the two "
                "heads of an i-MAE separate one latent"
            )
        if decoder:
            check_sizes(self.img_size, patch_size, decoder_embed_dim, decoder_num_heads, "decoder_")
            sizes = decoder_embed_dim, decoder_num_heads, mlp_ratio
            self._add_decoder(embed_dim, decoder_depth, *sizes)
        self.reset_parameters()

    def _add_decoder(
        self, embed_dim: int, depth: int, width: int, num_heads: int, mlp_ratio: float
    ) -> None:
        head_dim = width if self.head_space == "decoder" else embed_dim
        if self.heads == 2:
            self.decoder_embed1 = nn.Linear(embed_dim, head_dim)
            self.decoder_embed2 = nn.Linear(embed_dim, head_dim)
        if self.heads == 1 or self.head_space == "encoder":
            self.decoder_embed = nn.Linear(embed_dim, width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        self.decoder_pos_embed = self.empty_positions(width)
        if self.weighted_feature_maps:
            self.decoder_map_weights = nn.Parameter(torch.empty(depth, 1 + len(self.blocks)))
        kind = CrossBlock if self.decoder_attention == "cross" else Block
        self.decoder_blocks = nn.ModuleList(kind(width, num_heads, mlp_ratio) for _ in range(depth))
        self.decoder_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.decoder_pred = nn.Linear(width, self.patch_size**2 * self.in_chans)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise every parameter from torch's random generator."""
        super().reset_parameters()
        if self.has_decoder:
            self.decoder_pos_embed.copy_(self.fixed_positions(self.mask_token.shape[-1]))
            nn.init.normal_(self.mask_token, std=TOKEN_STD)
            if self.weighted_feature_maps:
                maps = self.decoder_map_weights.shape[1]
                nn.init.normal_(self.decoder_map_weights, std=maps**-0.5)
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
        if not self.has_decoder:
            raise TypeError("an encoder alone reconstructs nothing: use encode or forward_features")
        channels_last = imgs.dtype == torch.uint8
        check_size("imgs", imgs, self.img_size, self.in_chans, channels_last=channels_last)
        images = imgs if channels_last else imgs.permute(0, 2, 3, 1)
        key = None
        if mask is None or self.drops_paths:
            key = torch.randint(2**62, (len(images),), device=images.device)
        mask = mask or random_masking(key, self.grid, mask_ratio)
        (patches_BKV,) = self.visible_patches(images, mask)
        (head_BNE,) = self.split(self.encode_for_decoder(patches_BKV, mask.ids_keep, key))
        pred_BLV = self.decode(head_BNE, mask)
        target = torch.arange(len(images), device=images.device)
        pred_BMV = masked_rows(pred_BLV, mask)
        loss = self.reconstruction_loss(pred_BMV, images, target, mask.ids_masked)
        return loss, pred_BLV, mask.mask

    def encode_for_decoder(
        self, patches: Tensor, ids_keep: Tensor, key: Tensor | None = None
    ) -> Tensor:
        """Encode visible patches [B, K, P*P*C] to what `split`, and then `decode`, take.

        That is `encode`, or with weighted feature maps a latent for each of T decoder blocks,
        [B, T, n + K, D].
        """
        if not self.weighted_feature_maps:
            return self.encode(patches, ids_keep, key)
        x_BND, paths = self.embed(patches, ids_keep), self.draw_paths(key)
        return weighted_latents(self.blocks, self.norm, x_BND, self.decoder_map_weights, paths)

    def split(self, latent: Tensor) -> Tensor:
        """Apply each head to latents [B, n + K, D]: [heads, B, n + K, D or E], in `head_space`.

        Latents for each decoder block, [B, T, n + K, D], keep that axis.
        """
        before = ("B", "T") if latent.ndim == 4 else ("B",)
        tokens = f"{self.class_tokens} + K"
        check_shape("latent", latent, *before, tokens, self.pos_embed.shape[-1])
        if self.heads == 1:
            return (latent if self.head_space == "encoder" else self.decoder_embed(latent))[None]
        return torch.stack([self.decoder_embed1(latent), self.decoder_embed2(latent)])

    def decode(
        self, head: Tensor, mask: Mask, masked_only: bool = False, rows: Mask | None = None
    ) -> Tensor:
        """Decode a head's output to predicted patches [B, L, P*P*C].

        head: [B, n + K, D or E] of one head, or with weighted feature maps [B, T, n + K, D or E].
        masked_only: return only the masked rows, [B, M, P*P*C]; of the others, the last block
        computes nothing but keys and values. rows: return those that are masked in this other mask.
        A cross decoder computes nothing for others.
        """
        for each in (mask, rows or mask):
            check_mask(each, len(head), self.patches)
        in_encoder_space = self.head_space == "encoder"
        width = (self.pos_embed if in_encoder_space else self.mask_token).shape[-1]
        per_block = (len(self.decoder_blocks),) * self.weighted_feature_maps
        tokens = self.class_tokens + mask.ids_keep.shape[1]
        check_shape("head", head, len(head), *per_block, tokens, width)
        if in_encoder_space:
            head = self.decoder_embed(head)
        last = rows or (mask if masked_only else None)
        if self.decoder_attention == "cross":
            return self.decoder_pred(predict_rows(self, head, last))
        if self._shares_mask_tokens(mask, last):
            x, spread = self._decoder_rows(head, mask), mask
        else:
            tokens = head, self.mask_token, self.decoder_pos_embed
            x, spread = assemble_tokens(*tokens, mask.ids_restore), None
        x = run_blocks(self.decoder_blocks, self.decoder_norm, x, last, spread)
        if last is None:
            # Drop class tokens. Contiguous, as adding a bias to strided rows is an extra pass.
            x = x[:, self.class_tokens :].contiguous()
        return self.decoder_pred(x)

    def _shares_mask_tokens(self, mask: Mask, last: Mask | None) -> bool:
        """Return whether the first decoder block computes mask tokens once for all samples.

        It does so before its attention. A decoder's only block cannot, if it is to compute the
        rows of `last` only.
        """
        enough = mask.ids_masked.shape[1] >= SHARED_MASK_TOKENS_FROM * mask.mask.shape[1]
        return enough and (last is None or len(self.decoder_blocks) > 1)

    def _decoder_rows(self, head: Tensor, mask: Mask) -> Tensor:
        """Return the decoder's input, with positions, as rows for `spread_rows`: [R, E]."""
        positions_NE, n = self.decoder_pos_embed[0], self.class_tokens
        first_n = torch.arange(n, dtype=mask.ids_keep.dtype, device=head.device)
        ids = torch.cat([first_n.expand(len(head), -1), mask.ids_keep + n], dim=1)
        visible = head + F.embedding(ids, positions_NE.to(head.dtype))
        masked_LE = self.mask_token[0] + positions_NE[n:]
        return torch.cat([visible.flatten(0, 1), masked_LE.to(head.dtype)])

    def reconstruction_loss(
        self,
        pred: Tensor,
        images: Tensor,
        target: Tensor,
        ids_masked: Tensor,
        branches: int | None = None,
        **counted: Any,
    ) -> Tensor:
        """Compute the mean squared error of pred [B, M, P*P*C] on masked patches of images[target].

        With `branches` stacked in pred and target, return one error per branch. counted:
        ignore_boundary or kept, for `masked_l2`.
        """
        check_size("images", images, self.img_size, self.in_chans)
        return masked_l2(
            pred, images, target, ids_masked, self.patch_size, self.mean, self.std,
            self.norm_pix_loss, branches=branches, **counted,
        )  # fmt: skip
