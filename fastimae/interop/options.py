"""What a user may say of a checkpoint's model, where the file does not: the flags for it."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from fastimae.interop.hints import Hints
from fastimae.settings import PositiveInt, Settings


@dataclasses.dataclass(kw_only=True)
class ModelOptions(Settings):
    """Flags of the commands that read a checkpoint. What nobody says is assumed, and told."""

    model: str | None = None
    """Name of its model (mae_vit_base_patch16), where the file does not tell."""
    num_heads: int | None = None
    """Attention heads of its encoder, where the file does not tell. None: by the width."""
    decoder_num_heads: int | None = None
    """Attention heads of its decoder, where the file does not tell. None: by the width."""
    input_size: tuple[PositiveInt, ...] | None = None
    """Pixels of its images, a side or height and width, where the file does not tell. None: by its
    positions, a square."""
    norm_pix_loss: Literal["on", "off"] | None = None
    """on: its targets were normalised. None: as the file says, else off."""
    mean: tuple[float, ...] | None = None
    """Mean of each channel that it was trained with. None: as the file says, else ImageNet's."""
    std: tuple[float, ...] | None = None
    """Standard deviation of each channel. None: as the file says, else ImageNet's."""
    use_ema: bool = False
    """Of a file with averaged weights (EMA) beside those of training, take the averaged."""

    def of_model(self) -> dict[str, Any]:
        """Keyword arguments of `load_model`."""
        said = {f.name: getattr(self, f.name) for f in dataclasses.fields(ModelOptions)}
        said["name"], said["img_size"] = said.pop("model"), said.pop("input_size")
        if self.norm_pix_loss is not None:
            said["norm_pix_loss"] = self.norm_pix_loss == "on"
        return said | {"hints": Hints.of(type(self))}
