"""What a model can be told: its name, its sizes, how images are normalised for it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from fastimae.settings import Free, PositiveInt, Settings


@dataclasses.dataclass(kw_only=True)
class ModelSettings(Settings):
    """What is trained."""

    model: str = "mae_vit_large_patch16"
    """mae_vit_{nano,tiny,small,base,large,huge}_patchN, N from 2 to 32."""
    mean: tuple[float, ...] | None = None
    """Mean of each channel, in 0..1. None: ImageNet's, or 0.5."""
    std: tuple[float, ...] | None = None
    """Standard deviation of each channel. None: ImageNet's, or 0.5."""
    num_heads: PositiveInt | None = None
    """Attention heads of the encoder. None: the model's own."""
    decoder_embed_dim: PositiveInt | None = None
    """Width of the decoder. None: the model's own."""
    decoder_depth: PositiveInt | None = None
    """Blocks of the decoder. None: the model's own."""
    decoder_num_heads: PositiveInt | None = None
    """Attention heads of the decoder. None: the model's own."""
    norm_pix_loss: bool = False
    """Normalise the pixels of each target patch (better features, odder pictures)."""
    init: Free[Path | None] = None
    """Start the student from this MAE checkpoint."""
    allow_partial: bool = False
    """Load --init or --teacher even if keys are missing or left over (they are listed)."""
