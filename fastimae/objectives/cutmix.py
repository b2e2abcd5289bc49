"""CutMix of pixels, without labels (Yun et al., 2019): a box of each image is its partner's.

B = batch, H, W = image rows, columns (or values of a row, where channels are flattened).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastimae.kernels.random_masking import philox
from fastimae.kernels.reference import as_bits, at_quantile
from fastimae.objectives.mixing import beta_quantiles

CUTMIX_STREAM = 5
"""Philox stream of boxes: see `fastimae.loaders.order.philox.DrawStream`."""


class CutMix(nn.Module):
    """Pastes boxes: their area is 1 - lambda of the image's, with lambda from Beta(alpha, alpha).

    The centre of a box is anywhere in the image, and what lies outside is cut off, so that a box
    may be smaller than drawn (Yun et al., equations 1 and 2). As there are no labels, nothing
    depends on its true area.
    """

    def __init__(self, alpha: float) -> None:
        super().__init__()
        self.register_buffer("quantiles", beta_quantiles(alpha), persistent=False)

    def forward(self, images: Tensor, partner: Tensor, key: Tensor) -> Tensor:
        """Return images [B, H, W, C]: images[partner] in the box of each, itself elsewhere.

        images: uint8 or uint16. partner: int64 [B]. key: int64 [B]. It reads the images twice and
        writes them twice, on any device: the partners' rows are gathered first.
        """
        _, height, width, channels = images.shape
        top, bottom, left, right = self.boxes(key, height, width)[..., None].unbind(1)
        row_H, column_W = (torch.arange(side, device=key.device) for side in (height, width))
        rows_BH = (top <= row_H) & (row_H < bottom)
        columns_BW = (left <= column_W) & (column_W < right)
        values_BW = columns_BW.repeat_interleave(channels, dim=1)  # long rows are quicker on CPUs
        inside_BHW = rows_BH[:, :, None] & values_BW[:, None]
        flat_BHW = as_bits(images).flatten(2)
        mixed_BHW = torch.where(inside_BHW, flat_BHW[partner], flat_BHW)
        return mixed_BHW.view(images.dtype).view_as(images)

    def boxes(self, key: Tensor, height: int, width: int) -> Tensor:
        """Draw the box of each key, int64 [B]: (top, bottom, left, right), int64 [B, 4].

        Bottom and right are the first row and column outside.
        """
        word_B, down_B, across_B, _ = philox(key, torch.zeros_like(key), CUTMIX_STREAM)
        share_B = (1 - at_quantile(word_B, self.quantiles)).sqrt()
        edges = []
        for word, side in ((down_B, height), (across_B, width)):
            half, centre = (share_B * side).long() // 2, (word * side) >> 32
            edges += [(centre - half).clamp(min=0), (centre + half).clamp(max=side)]
        return torch.stack(edges, dim=1)
