"""Flags of features."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fastimae.engine.settings import Precision
from fastimae.evaluate.options.base import Kept
from fastimae.evaluate.options.labels import EncoderOptions, ProbeOptions
from fastimae.settings import Free, PositiveFloat

FEATURES = "features.safetensors"
"""The file of features, unless OUT names another."""
SUFFIX = ".safetensors"


@dataclasses.dataclass(kw_only=True)
class FeaturesOptions(EncoderOptions):
    """Write the features of all images to a file, of any layers.

    fastimae-eval features val.safetensors --checkpoint mae.pth --val val.beton
    """

    out: Free[tyro.conf.Positional[Annotated[Path | None, tyro.conf.arg(metavar="OUT")]]] = None
    """File to write, .safetensors. None: features.safetensors in the folder of the results."""
    layers: tuple[int, ...] | None = None
    """Blocks whose outputs are written, from 0; -1 is the last. The encoder's last norm follows.
    None: the last."""
    pool: Kept | None = ProbeOptions.pool
    """Of each image the class token (cls), the mean of the patches (avg), or all tokens. None: as
    the probes."""
    dtype: Literal["float32", "float16"] = "float32"
    """Numbers in the file."""
    precision: Precision = ProbeOptions.precision
    """Precision of the encoder. auto: as in pre-training, bf16 where that is faster."""
    max_shard_size: PositiveFloat = 10.0
    """GB of a file. Of more there are several, OUT-00001-of-00008.safetensors and so on."""

    def check(self) -> None:
        """Raise ConfigError for values out of range, and for several sources of images."""
        super().check()
        self.require(self.layers != (), "--layers needs a value")
        self.require(
            self.out is None or self.out.suffix == SUFFIX, f"OUT must end in {SUFFIX}: {self.out}"
        )
        self.require(
            self.val is None or (self.ffcv is None and self.data_path is None),
            "--val, --ffcv and --data_path each name images: give one of them",
        )
