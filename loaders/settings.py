"""What a loader can be told: where images come from, what is shown of them, in which steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from fastimae.loaders.crops import CropSettings
from fastimae.loaders.errors import SettingError
from fastimae.loaders.limits import LimitSettings
from fastimae.settings import (
    RGB,
    Count,
    Free,
    Idle,
    PairSettings,
    PositiveInt,
    Range,
    Seeded,
    Settings,
    Share,
    StepSize,
    height_and_width,
)

SomeShare = Annotated[
    float, Range(lambda value: 0 <= value < 1, "must be 0 or more, and below 1, not {}")
]


@dataclasses.dataclass(kw_only=True)
class SourceSettings(Settings):
    """Which images, and who reads them."""

    error = SettingError

    ffcv: Path | None = None
    """A .beton file, made by fastimae-convert or the ffcv library."""
    decoder: Literal["auto", "native", "pillow", "ffcv"] = "auto"
    """Who decodes the .beton: our engine (the default where it is built), Pillow, or ffcv's."""
    ffcv_ops: str | None = None
    """module:function that returns operations of the ffcv library, for --decoder ffcv to run."""
    cache: Literal["none", "ram"] = "none"
    """ram: read all of the .beton first and keep it in memory, once for all ranks of a machine."""
    label_field: str | None = None
    """Which field of a .beton file of several is the label; none: it has no labels."""
    image_field: str | None = None
    """Which field of a .beton file of several is the image."""
    dali: str | None = None
    """A .beton, a folder, or shards-{000..146}.tar (in quotes): DALI decodes, on the GPU if any."""
    dali_share: SomeShare = 0.0
    """Share of the samples of --ffcv that DALI decodes, for CPUs that cannot feed the GPU alone."""
    hw_decoder_load: Share = 0.65
    """Share of DALI's JPEGs that the GPU's own JPEG engine decodes, where it has one."""
    data_path: Path | None = None
    """A folder of images, by class or flat; its train/ is taken where it has one."""
    synthetic: bool = False
    """Made-up images: an upper bound for speed."""
    synthetic_samples: PositiveInt = 10_000
    """How many images --synthetic pretends to have."""
    input_size: tuple[PositiveInt, ...] = (224,)
    """Pixels: a side, or height and width."""
    in_chans: PositiveInt = RGB
    """Channels: 3 for RGB, 1 for gray."""

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return height_and_width(self.input_size)

    def check(self) -> None:
        """As of `Settings`."""
        super().check()
        height_and_width(self.input_size, self.error)
        self.require(
            self.in_chans in (1, 3) or self.synthetic,
            f"--in_chans {self.in_chans}: images have 3 channels (RGB) or 1 (gray)",
        )

    def idle(self) -> Iterator[Idle]:
        """As of `Settings`."""
        yield from super().idle()
        yield Idle(not self.synthetic, ("synthetic_samples",), "without --synthetic")
        yield Idle(not self.ffcv, ("decoder", "dali_share"), "without --ffcv")
        yield Idle(self.decoder != "ffcv", ("ffcv_ops",), "without --decoder ffcv")
        yield Idle(not self.ffcv and not self.dali, ("cache",), "without --ffcv or --dali")
        no_dali = not self.dali and not self.dali_share
        yield Idle(no_dali, ("hw_decoder_load",), "without --dali or --dali_share")


@dataclasses.dataclass(kw_only=True)
class ReadSettings(CropSettings, SourceSettings):
    """What of the images is shown, and how they are read."""

    error = SettingError

    repeated_aug: PositiveInt = 1
    """Crops of each image in a batch. An epoch shows the data so often: divide --epochs by it."""
    num_workers: Free[Count] = 10
    """Threads (processes with --data_path) that decode; 0 decodes in the main thread."""
    pin_mem: Free[bool] = True
    """Page-locked batches, for faster copies to a GPU."""
    max_bad_samples: Free[Count] = 100
    """Unreadable images are replaced and counted; more than this many end the run."""

    def idle(self) -> Iterator[Idle]:
        """As of `Settings`."""
        yield from super().idle()
        yield Idle(self.synthetic, ("crop", "crop_ratio"), "with --synthetic")


@dataclasses.dataclass(kw_only=True)
class DataSettings(LimitSettings, ReadSettings):
    """Where images come from. Give one of --ffcv, --dali, --data_path, --synthetic."""

    error = SettingError

    def idle(self) -> Iterator[Idle]:
        """As of `Settings`."""
        yield Idle(self.synthetic, ("max_pixels", "value_range"), "with --synthetic")
        yield from super().idle()


@dataclasses.dataclass(kw_only=True)
class LoaderSettings(Seeded, StepSize, PairSettings, ReadSettings):
    """All that `create_loader` takes."""

    error = SettingError

    def check_partners(self) -> None:
        """Raise SettingError where an image would be its own partner."""
        group = self.mix_group or self.batch_size // self.repeated_aug
        self.require(
            group != 1,
            "an image would be mixed with itself: make --mix_group 2 or more (with --mix_group 0: "
            "--batch_size at least 2 x --repeated_aug)",
        )
