"""Attention within windows of a grid of patches (ViTDet: Li et al., 2022, section 3).

B = batch, H, W = rows, columns of patches, D = width, w = side of a window, S = windows of all
images, N = tokens.
"""

from __future__ import annotations

from collections.abc import Collection

import torch.nn.functional as F
from torch import Tensor

from fastimae.kernels import Mask
from fastimae.models.vit import Attention, Block


def to_windows(x_BHWD: Tensor, window: int) -> Tensor:
    """Cut a grid into windows, [S, w * w, D], after zeros below and to the right of it.

    window: side w in patches. The windows of an image follow each other, row by row.
    """
    down, across = (-size % window for size in x_BHWD.shape[1:3])
    if down or across:
        x_BHWD = F.pad(x_BHWD, (0, 0, 0, across, 0, down))
    x_BHWD = x_BHWD.unflatten(1, (-1, window)).unflatten(3, (-1, window))
    return x_BHWD.transpose(2, 3).flatten(0, 2).flatten(1, 2)


def from_windows(x_SND: Tensor, window: int, grid: tuple[int, int]) -> Tensor:
    """Undo `to_windows`: join windows into a grid [B, H, W, D], without what was added.

    window: side w in patches. grid: (H, W).
    """
    rows, columns = (-(-size // window) for size in grid)
    x = x_SND.unflatten(1, (window, window)).unflatten(0, (-1, rows, columns))
    x_BHWD = x.transpose(2, 3).flatten(3, 4).flatten(1, 2)
    return x_BHWD[:, : grid[0], : grid[1]]


class GridAttention(Attention):
    """Self-attention of the patches of a grid: all of them, or those of each window.

    The grid is the shape of the tokens, [B, H, W, D], and no state: a block that is recomputed or
    compiled works for any. Windows at the border are filled up with zeros, which are keys and
    values like other tokens once the biases are added, as in ViTDet.
    """

    def __init__(self, attention: Attention, window: int | None) -> None:
        """Take over the layers of `attention`. window: side in patches; None: all attend to all."""
        super(Attention, self).__init__()  # makes no layers of its own
        self.num_heads, self.window = attention.num_heads, window
        self.qkv, self.proj = attention.qkv, attention.proj

    def forward(self, x_BHWD: Tensor, spread: Mask | None = None, *, late: bool = False) -> Tensor:
        """Attend: [B, H, W, D]. spread: None, since a grid has all patches. late: see `Attention`.

        x: after the block's first norm.
        """
        grid = tuple(x_BHWD.shape[1:3])
        if self.window is None:
            return super().forward(x_BHWD.flatten(1, 2), late=late).unflatten(1, grid)
        windows_SND = super().forward(to_windows(x_BHWD, self.window), late=late)
        return from_windows(windows_SND, self.window, grid)


def window_blocks(blocks: Collection[Block], window: int, global_blocks: Collection[int]) -> None:
    """Let blocks take a grid [B, H, W, D] and attend within windows, in place.

    window: side in patches. global_blocks: numbers from 0 of those that attend to all patches.
    """
    for number, block in enumerate(blocks):
        block.attn = GridAttention(block.attn, None if number in global_blocks else window)
