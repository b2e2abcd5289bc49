"""`DenseEncoder`: a pre-trained encoder that maps images of any size to grids of features.

B = batch, C = channels, H, W = rows, columns of patches, P = side of a patch, n = class tokens,
N = tokens (n + H * W), D = width.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastimae.evaluate.dense.windows import window_blocks
from fastimae.kernels.checks import check_shape
from fastimae.kernels.reference import patchify
from fastimae.models import MaskedAutoencoder
from fastimae.models.drop_path import path_factors
from fastimae.models.forward_features import block_numbers
from fastimae.models.positions import Grid, resized
from fastimae.models.settings import ModelSettings
from fastimae.models.sizes import check_image_size, global_blocks_of
from fastimae.models.vit import block_outputs


class DenseEncoder(nn.Module):
    """The encoder of a masked autoencoder, for dense tasks.

    Names in its state dict are MAE's: patch_embed, cls_token, pos_embed, blocks, norm. Blocks
    after the last one that is asked for are left out. `width` (D), `patch_size` (P), `depth`
    (blocks that are run), `in_chans` (C), `mean` and `std` are attributes.
    """

    def __init__(
        self,
        encoder: MaskedAutoencoder,
        img_size: tuple[int, int],
        *,
        layers: Sequence[int] = (-1,),
        window: int | None = None,
        global_blocks: Sequence[int] | None = None,
        drop_path: float = ModelSettings.drop_path,
        norm: bool = True,
    ) -> None:
        """Copy the encoder; all of the copy is trainable, until `requires_grad_(False)`.

        encoder: of any checkpoint that `load_model` takes. img_size: (height, width) in pixels, for
        which positions are resized and trained, bicubic as in timm; images of other sizes have
        resized ones. layers: blocks whose output is wanted, from 0, or from the last as -1. window:
        side, in patches, of windows that all blocks but the `global_blocks` attend within (ViTDet,
        section 3); None: all patches and the class tokens attend to each other, as in pre-training.
        With windows, class tokens take no part, and cls_token is kept as it is. global_blocks:
        numbers like `layers`, of the blocks that are run; None: the last of each quarter.
        drop_path: stochastic depth in training, from 0 in the first block to this in the last.
        norm: apply the encoder's last norm to each layer; a model that was fine-tuned on the mean
        of its patches has none.

        Raises ValueError for a size that is no multiple of the patches, and for blocks that there
        are not.
        """
        super().__init__()
        check_image_size(img_size, encoder.patch_size)
        if not layers:
            raise ValueError("layers must name at least one block")
        self.layers = block_numbers(layers, len(encoder.blocks))
        self.depth, self.window, self.drop_path = max(self.layers) + 1, window, drop_path
        self.patch_size, self.in_chans = encoder.patch_size, encoder.in_chans
        self.mean, self.std, self.class_tokens = encoder.mean, encoder.std, encoder.class_tokens
        self.img_size = tuple(img_size)
        self.grid = self._grid_of(img_size)
        self.patch_embed = copy.deepcopy(encoder.patch_embed)
        self.blocks = copy.deepcopy(encoder.blocks[: self.depth])
        self.norm = copy.deepcopy(encoder.norm) if norm else nn.Identity()
        self._copy_positions(encoder)
        self.width = self.pos_embed.shape[-1]
        if window is not None:
            self._add_windows(window, global_blocks)
        self.requires_grad_(True)

    def _copy_positions(self, encoder: MaskedAutoencoder) -> None:
        positions = encoder.state_dict()["pos_embed"].detach().clone()
        made_for = self._grid_of(encoder.made_for)
        self.pos_embed = nn.Parameter(resized(positions, made_for, self.grid))
        self.cls_token = nn.Parameter(encoder.cls_token.detach().clone())

    def _add_windows(self, window: int, global_blocks: Sequence[int] | None) -> None:
        if window < 1:
            raise ValueError(f"window must be 1 patch or more, not {window}")
        if global_blocks is None:
            global_blocks = global_blocks_of(self.depth)
        else:
            global_blocks = block_numbers(global_blocks, self.depth, "global_blocks")
        window_blocks(self.blocks, window, global_blocks)
        # A parameter without a gradient would make DDP wait for it.
        cls_token = self.cls_token.detach()
        del self.cls_token
        self.register_buffer("cls_token", cls_token)

    @property
    def windowed(self) -> bool:
        """Whether any block attends within windows: of four or fewer, none does by default."""
        sides = (getattr(block.attn, "window", None) for block in self.blocks)
        return any(side is not None for side in sides)

    def _grid_of(self, img_size: Sequence[int]) -> Grid:
        return img_size[0] // self.patch_size, img_size[1] // self.patch_size

    def forward(self, imgs: Tensor, key: Tensor | None = None) -> list[Tensor]:
        """Compute one map of features [B, D, H, W] for each of the `layers`, in their order.

        imgs: float [B, C, H * P, W * P] normalised by `mean` and `std`; H and W may differ from
        those of img_size. key: int64 [B], from which `drop_path` is drawn in training. The dtype is
        that of the weights, or of autocast; in memory, channels are last. Raises ValueError for
        images of another layout, and for a key that is missing.
        """
        check_shape("imgs", imgs, "B", self.in_chans, "H", "W")
        check_image_size(imgs.shape[2:], self.patch_size)
        grid = self._grid_of(imgs.shape[2:])
        x, paths = self._embed(imgs, grid), self._draw_paths(key)
        outputs = dict(block_outputs(self.blocks, self.norm, x, self.layers, paths))
        return [self._as_map(outputs[number], grid) for number in self.layers]

    def _embed(self, imgs: Tensor, grid: Grid) -> Tensor:
        """Return the input of the blocks: [B, N, D], or with windows a grid [B, H, W, D]."""
        patches = patchify(imgs.permute(0, 2, 3, 1), self.patch_size)
        x_BND = self.patch_embed(patches.to(self.patch_embed.proj.weight.dtype))
        positions_1ND = resized(self.pos_embed, self.grid, grid)
        first_1nD, patches_1ND = positions_1ND.tensor_split([self.class_tokens], 1)
        x_BND = x_BND + patches_1ND.to(x_BND.dtype)
        if self.window is not None:
            return x_BND.unflatten(1, grid)
        cls_1nD = (self.cls_token + first_1nD).to(x_BND.dtype)
        return torch.cat([cls_1nD.expand(len(x_BND), -1, -1), x_BND], dim=1)

    def _as_map(self, x: Tensor, grid: Grid) -> Tensor:
        if self.window is None:
            x = x[:, self.class_tokens :].unflatten(1, grid)
        return x.permute(0, 3, 1, 2)

    def _draw_paths(self, key: Tensor | None) -> Tensor | None:
        """Return the factors of `path_factors`, or None if all are 1."""
        if not (self.training and self.drop_path > 0 and torch.is_grad_enabled()):
            return None
        if key is None:
            raise ValueError("drop_path is drawn from the keys of samples: give key in training")
        return path_factors(key, self.drop_path, self.depth)
