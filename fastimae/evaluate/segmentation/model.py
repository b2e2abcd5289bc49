"""`Segmenter`: an encoder and a head, from images to the logits of each pixel.

B = batch, C = channels, H, W = height and width in pixels, K = classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastimae.evaluate.dense.backbone import DenseEncoder
from fastimae.evaluate.segmentation.heads import LinearHead, PyramidHead
from fastimae.models import MaskedAutoencoder
from fastimae.settings import ConfigError

LEVELS = 4
"""Maps that the pyramid takes."""


class Segmenter(nn.Module):
    """A dense encoder and a head on its maps; a frozen encoder stays in evaluation mode."""

    def __init__(self, encoder: DenseEncoder, head: nn.Module, *, frozen: bool) -> None:
        """Join them. encoder: gives the head's maps. frozen: its weights do not change."""
        super().__init__()
        self.encoder, self.head, self.frozen = encoder, head, frozen
        if frozen:
            encoder.requires_grad_(False).eval()

    def forward(self, images: Tensor, key: Tensor | None = None) -> Tensor:
        """Return logits, float32 [B, K, H, W]; bilinear between the places of the head's map.

        images: float [B, C, H, W], normalised. key: int64 [B] of samples, for drop path.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            maps = self.encoder(images, key)
        logits = self.head(maps).float()
        return F.interpolate(logits, images.shape[2:], mode="bilinear")

    def train(self, mode: bool = True) -> Self:
        """Set the mode like nn.Module, except of a frozen encoder."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self


def build_segmenter(
    encoder: MaskedAutoencoder,
    classes: int,
    *,
    img_size: tuple[int, int],
    head: str,
    layers: Sequence[int] | None,
    head_dim: int,
    frozen: bool,
    drop_path: float,
) -> Segmenter:
    """Build a segmentation model with a fresh head on a pre-trained encoder, which is copied.

    classes: K. img_size: (height, width) of training crops. head, layers, head_dim, frozen,
    drop_path: see `SegmentOptions`. Raises ConfigError for layers that the head cannot take.
    """
    layers = layers_of(head, layers, len(encoder.blocks))
    dense = DenseEncoder(
        encoder, img_size,
        layers=layers, drop_path=0.0 if frozen else drop_path, norm=head == "linear",
    )  # fmt: skip
    if head == "linear":
        made = LinearHead(dense.width, len(layers), classes)
    else:
        made = PyramidHead(
            dense.width, len(layers), classes, patch_size=dense.patch_size, dim=head_dim
        )
    return Segmenter(dense, made, frozen=frozen)


def layers_of(head: str, layers: Sequence[int] | None, depth: int) -> list[int]:
    """Return the blocks that a head reads, of an encoder of `depth` blocks; None: its usual ones.

    The pyramid's are the last of each quarter: 2, 5, 8, 11 of 12, from fine to coarse. Raises
    ConfigError for other numbers of blocks than it takes.
    """
    if layers is None:
        quarters = [max(depth * level // LEVELS, 1) - 1 for level in range(1, LEVELS + 1)]
        return [-1] if head == "linear" else quarters
    if head != "linear" and len(layers) != LEVELS:
        raise ConfigError(f"--layers: --head {head} takes {LEVELS} blocks, not {len(layers)}")
    if wrong := [layer for layer in layers if not -depth <= layer < depth]:
        raise ConfigError(f"--layers {wrong[0]}: the encoder has blocks 0 to {depth - 1}")
    return list(layers)
