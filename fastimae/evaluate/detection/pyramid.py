"""Feature maps at strides 4, 8, 16, 32 and 64 from the one map of a vision transformer.

The hierarchical paper (appendix C.7) detects with the same strides whatever the patch size. From
the map of the last block, as in ViTDet ("Exploring Plain Vision Transformer Backbones for Object
Detection", Li et al. 2022, section 3): 2x2 transposed convolutions towards the smaller strides,
max pooling towards the larger ones.

B = batch, D = width of the encoder, C = channels of the pyramid, H, W = height and width of a map.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator

import torch.nn.functional as F
from torch import Tensor, nn

from fastimae.models.vit import LAYER_NORM_EPS

STRIDES = (4, 8, 16, 32)
"""Of the maps that boxes are pooled from, in pixels."""
RPN_STRIDES = (*STRIDES, 64)
"""Of the maps that boxes are proposed from."""
CHANNELS = 256
"""Mask R-CNN's channels of each map."""


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels at each place of [B, C, H, W]; in fp32 also under autocast."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=LAYER_NORM_EPS)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Normalise x_BCHW, float [B, C, H, W]."""
        return super().forward(x_BCHW.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Pyramid(nn.Module):
    """Maps of equal width at `RPN_STRIDES`, by name: "4", "8", "16", "32" and "64"."""

    def __init__(self, width: int, patch_size: int, channels: int = CHANNELS) -> None:
        """width: D, of the encoder's map. patch_size: its stride. channels: C, of each map."""
        super().__init__()
        self.patch_size, self.stride = patch_size, nearest_stride(patch_size)
        self.levels = nn.ModuleDict(
            {str(stride): _level(width, self.stride, stride, channels) for stride in STRIDES}
        )

    def forward(self, x_BDHW: Tensor) -> OrderedDict[str, Tensor]:
        """Return maps [B, C, h, w] by stride; x_BDHW: float [B, D, H, W], at the patch size.

        Patches of 4, 8, 16 and 32 pixels are used as they are; a map of another stride is resampled
        to the nearest of these first.
        """
        if self.patch_size != self.stride:
            height, width = (side * self.patch_size // self.stride for side in x_BDHW.shape[-2:])
            x_BDHW = F.interpolate(
                x_BDHW.float(), (height, width), mode="bilinear", antialias=True
            ).to(x_BDHW.dtype)
        maps = OrderedDict((name, level(x_BDHW)) for name, level in self.levels.items())
        coarsest = maps[str(STRIDES[-1])]
        maps[str(RPN_STRIDES[-1])] = F.max_pool2d(coarsest, kernel_size=1, stride=2)
        return maps


def nearest_stride(patch_size: int) -> int:
    """Return the one of `STRIDES` that is nearest to patch_size as a ratio."""
    return min(STRIDES, key=lambda stride: abs(math.log(stride / patch_size)))


def side_multiple(patch_size: int) -> int:
    """Return what the sides of images must be multiples of: patch_size and the largest stride."""
    return math.lcm(patch_size, STRIDES[-1])


def _level(width: int, stride: int, wanted: int, channels: int) -> nn.Sequential:
    """Return the layers from a map at `stride` to the one at the `wanted` stride."""
    layers = list(_rescaling(width, stride, wanted))
    doublings = sum(isinstance(layer, nn.ConvTranspose2d) for layer in layers)
    return nn.Sequential(
        *layers,
        nn.Conv2d(_halved(width, doublings), channels, 1, bias=False),
        ChannelNorm(channels),
        nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        ChannelNorm(channels),
    )


def _rescaling(width: int, stride: int, wanted: int) -> Iterator[nn.Module]:
    """Yield the layers that change the stride: each doubling of the map halves the width."""
    if wanted > stride:
        yield nn.MaxPool2d(wanted // stride)
    for number in range(int(math.log2(stride / wanted)) if wanted < stride else 0):
        if number:
            yield from (ChannelNorm(_halved(width, number)), nn.GELU())
        yield nn.ConvTranspose2d(_halved(width, number), _halved(width, number + 1), 2, stride=2)


def _halved(width: int, times: int) -> int:
    return max(width >> times, 1)
