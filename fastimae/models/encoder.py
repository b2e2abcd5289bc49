"""The encoder of a masked autoencoder: a vision transformer of visible patches.

B = batch, L = patches of an image, K = visible, n = class tokens, N = tokens (n + K), P = patch
size, C = channels, D = width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastimae.kernels import Mask, jitter_patchify, mix_patchify
from fastimae.kernels.checks import are_pixels, check_ids, check_shape, check_size
from fastimae.kernels.reference import patchify, unpatchify
from fastimae.models.drop_path import path_factors
from fastimae.models.forward_features import Pool, forward_features
from fastimae.models.positions import at_grid
from fastimae.models.sizes import check_image_size, check_sizes
from fastimae.models.vit import LAYER_NORM_EPS, Block, PatchEmbed, run_blocks, sincos_positions
from fastimae.settings import ConfigError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
TOKEN_STD = 0.02
"""Standard deviation of fresh class and mask tokens."""


class Encoder(nn.Module):
    """A vision transformer with MAE's state-dict names and shapes; see `MaskedAutoencoder`.

    Layers are initialised by the class that has them all.
    """

    def __init__(
        self,
        *,
        img_size: int | tuple[int, int],
        patch_size: int,
        in_chans: int,
        embed_dim: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float,
        class_tokens: int,
        drop_path: float,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
    ) -> None:
        super().__init__()
        self.img_size = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
        self.made_for = self.img_size
        self.mean, self.std = channel_statistics(in_chans, mean, std)
        check_sizes(self.img_size, patch_size, embed_dim, num_heads)
        if class_tokens < 1:
            raise ValueError(f"class_tokens must be 1 or more, not {class_tokens}")
        self.class_tokens, self.drop_path = class_tokens, drop_path
        self.patch_size, self.in_chans = patch_size, in_chans
        self.grid = self._grid_of(self.img_size)

        self.patch_embed = PatchEmbed(patch_size=patch_size, in_chans=in_chans, embed_dim=embed_dim)
        self.cls_token = nn.Parameter(torch.empty(1, class_tokens, embed_dim))
        self.pos_embed = self.empty_positions(embed_dim)
        self.blocks = nn.ModuleList(Block(embed_dim, num_heads, mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(embed_dim, eps=LAYER_NORM_EPS)

    @property
    def patches(self) -> int:
        """L, the patches of an image."""
        return self.grid[0] * self.grid[1]

    @property
    def drops_paths(self) -> bool:
        """Whether samples skip some attentions and MLPs now: see `path_factors`.

        In training alone, of which pictures, without gradients, are no part.
        """
        return self.training and self.drop_path > 0 and torch.is_grad_enabled()

    @torch.no_grad()
    def set_image_size(self, img_size: tuple[int, int]) -> None:
        """Take images of another size, (height, width) in pixels, from now on, in place.

        Parameters and state dict stay those of the size that the model was made for, `made_for`:
        optimizers, shards and checkpoints do not depend on this one. Raises ConfigError unless such
        images consist of patches.
        """
        check_image_size(img_size, self.patch_size)
        self.img_size, self.grid = tuple(img_size), self._grid_of(img_size)
        made = self._grid_of(self.made_for)
        for name in ("pos_embed", "decoder_pos_embed"):
            self.__dict__.pop(name, None)
            positions = self._parameters.get(name)
            if positions is not None and self.grid != made:
                # An attribute hides the parameter of its name from whoever computes with it.
                whole = getattr(positions, "full_tensor", positions.detach)()  # of shards
                self.__dict__[name] = at_grid(whole, made, self.grid)[0]

    def _grid_of(self, img_size: tuple[int, int]) -> tuple[int, int]:
        return img_size[0] // self.patch_size, img_size[1] // self.patch_size

    def empty_positions(self, width: int) -> nn.Parameter:
        """Return room for the class tokens' and all patches' positions, which are not trained."""
        rows = self.class_tokens + self.patches
        return nn.Parameter(torch.empty(1, rows, width), requires_grad=False)

    def fixed_positions(self, width: int) -> Tensor:
        """Return MAE's positions for this image size, fp32 [1, n + L, width]: zeros, then waves."""
        return sincos_positions(width, self.grid, self.class_tokens)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise every parameter from torch's random generator, except for those of layers."""
        self.pos_embed.copy_(self.fixed_positions(self.pos_embed.shape[-1]))
        nn.init.normal_(self.cls_token, std=TOKEN_STD)

    def forward_features(
        self,
        imgs: Tensor,
        pool: Pool = "tokens",
        layers: Sequence[int] | None = None,
        *,
        norm: bool = True,
    ) -> Tensor | list[Tensor]:
        """Compute features of whole images: no patch is masked.

        imgs: uint8/16 [B, H, W, C], or float [B, C, H, W] normalised. pool: "tokens" for the class
        tokens and all patches, [B, n + L, D], as timm's `forward_features`; "cls" for the class
        token, or the mean of several (Pixio), "mean" for the mean of the patches, [B, D].
        layers: blocks to return instead of the last one, from 0, or negative from the end (-1 is
        the last); the result is then a list in that order. norm: apply the encoder's last norm, to
        each of the layers. A model that was fine-tuned on the mean has `fc_norm` instead, which
        applies to the mean only.

        Gradients reach the weights, and float images. The dtype is that of the weights, or of
        autocast. Raises ValueError for images of another size or layout, for layers that there are
        not, and for the class token of a model that has no norm for it.
        """
        return forward_features(self, imgs, pool, layers, norm)

    def channels_last(self, imgs: Tensor) -> Tensor:
        """Return imgs, as `forward_features` takes them, as [B, H, W, C]. Raises ValueError."""
        last = are_pixels(imgs)
        check_size("imgs", imgs, self.img_size, self.in_chans, channels_last=last)
        return imgs if last else imgs.permute(0, 2, 3, 1)

    def visible_patches(
        self, images: Tensor, mask: Mask, *, jitter: Tensor | None = None, **mixture: Any
    ) -> tuple[Tensor, ...]:
        """Call `mix_patchify` with the dtype that the encoder computes in.

        mixture: partner, alpha and clean, for `mix_patchify`. jitter: factors for
        `jitter_patchify`, which is called instead. Raises ValueError for images of another size,
        and for a mixture with jitter.
        """
        if mixture and jitter is not None:
            raise ValueError(f"visible patches with jitter take no {', '.join(mixture)}")
        check_size("images", images, self.img_size, self.in_chans)
        device = images.device.type
        dtype = self.patch_embed.proj.weight.dtype
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        ids, pixels = mask.ids_keep, (self.patch_size, self.mean, self.std)
        if jitter is not None:
            return (jitter_patchify(images, ids, jitter, *pixels, dtype=dtype),)
        return mix_patchify(images, ids, *pixels, dtype=dtype, **mixture)

    def encode(self, patches: Tensor, ids_keep: Tensor, key: Tensor | None = None) -> Tensor:
        """Encode visible patches [B, K, P*P*C] to latents [B, n + K, D], class tokens first.

        The latents have passed the encoder's last norm. key: int64 [B], from which `drop_path` is
        drawn in training; ConfigError if it is then missing.
        """
        return self.run(self.embed(patches, ids_keep), key)

    def run(self, x: Tensor, key: Tensor | None = None) -> Tensor:
        """Run the blocks and the norm on their input [B, N, D]. key: see `encode`."""
        return run_blocks(self.blocks, self.norm, x, paths=self.draw_paths(key))

    def draw_paths(self, key: Tensor | None) -> Tensor | None:
        """Return the factors of `path_factors`, or None if all are 1. key: see `encode`."""
        if not self.drops_paths:
            return None
        if key is None:
            raise ConfigError(
                "--drop_path draws from the keys of samples, which this objective does not "
                "give the encoder: leave it out, or call encode(..., key=batch.key)"
            )
        return path_factors(key, self.drop_path, len(self.blocks))

    def embed(self, patches: Tensor, ids_keep: Tensor) -> Tensor:
        """Embed visible patches [B, K, P*P*C] and add positions: the encoder's input [B, N, D]."""
        check_shape("ids_keep", ids_keep, "B", "K")
        check_ids("ids_keep", ids_keep)
        check_shape("patches", patches, *ids_keep.shape, self.patch_size**2 * self.in_chans)
        x_BKD = self.patch_embed(patches)
        n = self.class_tokens
        x_BKD = x_BKD + F.embedding(ids_keep, self.pos_embed[0, n:].to(x_BKD.dtype))
        cls_1nD = (self.cls_token + self.pos_embed[:, :n]).to(x_BKD.dtype)
        return torch.cat([cls_1nD.expand(len(x_BKD), -1, -1), x_BKD], dim=1)

    def patchify(self, imgs: Tensor) -> Tensor:
        """Cut imgs [B, C, H, W] into [B, L, P*P*C], pixels ordered (row, column, channel)."""
        check_shape("imgs", imgs, "B", self.in_chans, "H", "W")
        return patchify(imgs.permute(0, 2, 3, 1), self.patch_size)

    def unpatchify(self, x: Tensor) -> Tensor:
        """Assemble imgs [B, C, H, W] from patches [B, L, P*P*C]: inverts `patchify`."""
        size = self.patch_size**2 * self.in_chans
        check_shape("x", x, "B", self.patches, size)
        return unpatchify(x, self.grid, self.in_chans).permute(0, 3, 1, 2)


def channel_statistics(
    in_chans: int, mean: Sequence[float] | None, std: Sequence[float] | None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and std per channel.

    None: ImageNet's for three channels, and 0.5 otherwise. Raises ConfigError for a wrong
    number of values, or if a std is not positive.
    """
    mean = mean or (IMAGENET_MEAN if in_chans == 3 else (0.5,) * in_chans)
    std = std or (IMAGENET_STD if in_chans == 3 else (0.5,) * in_chans)
    for name, values in (("mean", mean), ("std", std)):
        if len(values) != in_chans:
            raise ConfigError(
                f"--{name} has {len(values)} values, and images have {in_chans} channels "
                "(--in_chans): give one for each"
            )
    if min(std) <= 0:
        raise ConfigError(f"--std must be positive, not {tuple(std)}")
    return tuple(mean), tuple(std)
