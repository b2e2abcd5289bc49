"""Heads that classify each place of feature maps: one layer, or a small pyramid.

B = batch, D = width of the encoder, E = channels of a head, K = classes, H, W = rows, columns of a
map.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.layers import LayerNorm2d
from torch import Tensor, nn

NORM_EPS = 1e-6
CLASSIFY_STD = 0.01
"""Of the last layer's weights, so that the first logits are almost equal."""
FINEST = 4
"""Pixels between the places of the finest map in `PyramidHead`."""


class LinearHead(nn.Module):
    """Batch normalisation without affine part, then one layer for each patch.

    The dense form of MAE's linear probe (its appendix A.1); DINOv2 tests frozen features in this
    way (section 7.4). The maps of several layers are put side by side.
    """

    def __init__(self, width: int, maps: int, classes: int) -> None:
        """width: D, channels of a map. maps: number of them. classes: K."""
        super().__init__()
        self.norm = nn.BatchNorm2d(width * maps, eps=NORM_EPS, affine=False)
        self.classify = _classifier(width * maps, classes)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Return logits [B, K, H, W] of maps, each [B, D, H, W]; statistics are in fp32."""
        x_BDHW = self.norm(torch.cat(list(maps), 1).float())
        return self.classify(x_BDHW.to(self.classify.weight.dtype))


class PyramidHead(nn.Module):
    """Maps of four blocks at strides of 4, 8, 16 and 32 pixels, summed from coarse to fine.

    Maps of a plain vision transformer are brought to these strides by deconvolution and pooling, as
    MAE does for detection and BEiT for UPerNet. What follows is a feature pyramid's top-down path
    with one smoothing layer, a fraction of UPerNet's parameters. Norms are over channels, so that
    results do not depend on how images are batched.
    """

    def __init__(self, width: int, maps: int, classes: int, *, patch_size: int, dim: int) -> None:
        """width: D, channels of a map. maps: number of them, from fine to coarse. classes: K.

        patch_size: pixels between the places of all maps, as the encoder gives them. dim: E.
        """
        super().__init__()
        finest = round(math.log2(patch_size / FINEST))
        self.scale = nn.ModuleList(
            Rescale(width, dim, halvings=number - finest) for number in range(maps)
        )
        self.smooth = nn.Sequential(
            nn.Conv2d(dim, dim, 3, padding=1, bias=False), LayerNorm2d(dim), nn.GELU()
        )
        self.classify = _classifier(dim, classes)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Return logits [B, K, h, w] at the finest stride, of maps [B, D, H, W] each."""
        pyramid = [scale(each) for scale, each in zip(self.scale, maps, strict=True)]
        x = pyramid[-1]
        for finer in reversed(pyramid[:-1]):
            x = finer + F.interpolate(x, finer.shape[2:], mode="bilinear")
        return self.classify(self.smooth(x))


class Rescale(nn.Module):
    """A map with other channels, at a half or double stride, several times: [B, D, H, W]."""

    def __init__(self, width: int, dim: int, *, halvings: int) -> None:
        """width: D. dim: channels of the result. halvings: of the rows; negative ones double."""
        super().__init__()
        self.halvings = halvings
        self.project = nn.Sequential(nn.Conv2d(width, dim, 1, bias=False), LayerNorm2d(dim))
        steps = ((nn.GELU(), nn.ConvTranspose2d(dim, dim, 2, 2)) for _ in range(-halvings))
        self.enlarge = nn.Sequential(*itertools.chain.from_iterable(steps))

    def forward(self, x_BDHW: Tensor) -> Tensor:
        """Return [B, dim, h, w]; of odd sizes, the last row and column stay."""
        x = self.enlarge(self.project(x_BDHW))
        for _ in range(self.halvings):
            x = F.max_pool2d(x, 2, ceil_mode=True)
        return x


def _classifier(channels: int, classes: int) -> nn.Conv2d:
    layer = nn.Conv2d(channels, classes, 1)
    nn.init.trunc_normal_(layer.weight, std=CLASSIFY_STD)
    nn.init.zeros_(layer.bias)
    return layer
