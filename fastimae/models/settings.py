"""Settings of a model: its name, its sizes, and how its images are normalised."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from fastimae.models.names import parse_name
from fastimae.settings import Expert, Free, Idle, PixelMean, PixelStd, PositiveInt, Rate, Settings

HeadSpace = Literal["decoder", "encoder"]
HEAD_SPACE: HeadSpace = "decoder"
DecoderAttention = Literal["self", "cross"]
DECODER_ATTENTION: DecoderAttention = "self"
MASK_RATIO = 0.75
OF_DECODER = (
    *("decoder_embed_dim", "decoder_depth", "decoder_num_heads", "decoder_attention"),
    *("weighted_feature_maps", "norm_pix_loss"),
)
"""Settings without effect for an encoder alone."""


@dataclasses.dataclass(kw_only=True)
class ModelSettings(Settings):
    """The model to train."""

    model: str = "mae_vit_large_patch16"
    """mae_vit_{nano,tiny,small,base,large,huge}_patchN, with N from 2 to 32."""
    mean: tuple[PixelMean, ...] | None = None
    """Mean of each channel, in 0..1. None: ImageNet's, or 0.5."""
    std: tuple[PixelStd, ...] | None = None
    """Standard deviation of each channel. None: ImageNet's, or 0.5."""
    num_heads: Expert[PositiveInt | None] = None
    """Attention heads of the encoder. None: as the model's name says."""
    decoder_embed_dim: Expert[PositiveInt | None] = None
    """Width of the decoder. None: as the model's name says."""
    decoder_depth: Expert[PositiveInt | None] = None
    """Blocks of the decoder. None: as the model's name says."""
    decoder_num_heads: Expert[PositiveInt | None] = None
    """Attention heads of the decoder. None: as the model's name says."""
    decoder_attention: Expert[DecoderAttention] = DECODER_ATTENTION
    """What the decoder's tokens attend to: each other (MAE), or only the latent (CrossMAE)."""
    weighted_feature_maps: Expert[bool] = False
    """Each block of a cross decoder attends to its own sum of all encoder blocks' outputs."""
    class_tokens: Expert[PositiveInt] = 1
    """Class tokens of encoder and decoder. Pixio: 8."""
    drop_path: Expert[Rate] = 0.0
    """Share of samples that skip attention or MLP in the encoder's last block; the first: none."""
    norm_pix_loss: bool = False
    """Normalise target patches: better features, less natural reconstructions."""
    init: Free[Path | None] = None
    """MAE checkpoint that the student starts from. None: random weights."""
    allow_partial: Expert[bool] = False
    """Load --init or --teacher even if keys are missing or unexpected (they are listed)."""

    def check(self) -> None:
        """Check the name, too: see `Settings`."""
        super().check()
        parse_name(self.model)

    def idle(self) -> Iterator[Idle]:
        alone = self.decoder_attention == "self"
        yield Idle(alone, ("weighted_feature_maps",), "without --decoder_attention cross")
        yield from super().idle()
