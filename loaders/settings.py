"""Settings of a loader: where images come from, how they are cropped, in which steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from fastimae.cpus import worker_count
from fastimae.loaders.errors import SettingError
from fastimae.loaders.images.crops import CropSettings
from fastimae.loaders.images.limits import LimitSettings
from fastimae.settings import (
    RGB,
    Count,
    Expert,
    FileNames,
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

DEVICE_SHARE = 1 / 4
"""Largest share of a GPU's memory that --cache auto fills with images."""
SomeShare = Annotated[
    float, Range(lambda value: 0 <= value < 1, "must be 0 or more, and below 1, not {}")
]


@dataclasses.dataclass(kw_only=True)
class SourceSettings(Settings):
    """Which images, and what reads them."""

    error = SettingError

    ffcv: Path | None = None
    """A .beton file, made by fastimae-convert or the ffcv library."""
    decoder: Expert[Literal["auto", "native", "pillow", "ffcv"]] = "auto"
    """What decodes the .beton: our engine (the default if it is built), Pillow, or ffcv."""
    ffcv_ops: Expert[FileNames | None] = None
    """file.py:function or module:function that returns operations of the ffcv library, for
    --decoder ffcv."""
    cache: Free[Literal["auto", "none", "ram", "device"]] = "auto"
    """device: decode once and keep all on the GPU, auto: if it takes a quarter of its memory or
    less (--ffcv, --data_path); ram: keep the .beton in memory, once for all ranks of a machine."""
    label_field: Expert[str | None] = None
    """Label field of the .beton; "none": ignore labels. None: found by its name or type."""
    image_field: Expert[str | None] = None
    """Image field of the .beton. None: the one called image, or the only one."""
    dali: FileNames | None = None
    """A .beton, a folder, or shards-{000..146}.tar (in quotes): DALI decodes, on the GPU if any."""
    dali_share: Expert[SomeShare] = 0.0
    """Share of --ffcv's samples that DALI decodes, for CPUs that cannot feed the GPU alone."""
    hw_decoder_load: Expert[Share] = 0.65
    """Share of DALI's JPEGs that the GPU's hardware JPEG decoder takes, if there is one."""
    data_path: Path | None = None
    """A folder of images, by class or flat; its train/ is used if there is one."""
    dataset: FileNames | None = None
    """file.py:function or module:function that returns a Dataset of your own."""
    synthetic: bool = False
    """Synthetic images instead of files, for an upper bound on speed."""
    synthetic_samples: Expert[PositiveInt] = 10_000
    """Number of images that --synthetic pretends to have."""
    input_size: tuple[PositiveInt, ...] = (224,)
    """Pixels: a side, or height and width."""
    in_chans: PositiveInt = RGB
    """Channels: 3 for RGB, 1 for gray, or as many as the data has."""

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return height_and_width(self.input_size)

    def check(self) -> None:
        """As in `Settings`."""
        super().check()
        height_and_width(self.input_size, self.error)

    def idle(self) -> Iterator[Idle]:
        """As in `Settings`."""
        yield from super().idle()
        yield Idle(not self.synthetic, ("synthetic_samples",), "without --synthetic")
        yield Idle(not self.ffcv, ("decoder", "dali_share"), "without --ffcv")
        yield Idle(self.decoder != "ffcv", ("ffcv_ops",), "without --decoder ffcv")
        in_ram = self.cache == "ram" and not self.ffcv and not self.dali
        yield Idle(in_ram, ("cache",), "without --ffcv or --dali")
        no_dali = not self.dali and not self.dali_share
        yield Idle(no_dali, ("hw_decoder_load",), "without --dali or --dali_share")


@dataclasses.dataclass(kw_only=True)
class ChoiceSettings(Settings):
    """A choice of few of the images."""

    images: Expert[PositiveInt | None] = None
    """Train on so many of the images, chosen by --seed. None: all that --images_from allows."""
    images_from: Expert[Literal["random", "one_class", "one_per_class"]] = "random"
    """Any images; those of one class, drawn among those with enough; or one of each class."""

    @property
    def chooses_images(self) -> bool:
        """Whether not simply all images are used."""
        return self.images is not None or self.images_from != "random"


@dataclasses.dataclass(kw_only=True)
class ReadSettings(CropSettings, ChoiceSettings, SourceSettings):
    """How images are read and cropped."""

    error = SettingError

    repeated_aug: PositiveInt = 1
    """Crops per image and epoch. An epoch is that many times longer, so divide --epochs by it."""
    epoch_samples: Expert[PositiveInt | None] = None
    """Images that an epoch draws: each as often as the next, with new crops. None: each once."""
    num_workers: Free[Count | None] = None
    """Threads (for folders and --dataset, processes) that decode; 0: the main thread does. None:
    one per core; torchrun's processes share the cores."""
    pin_mem: Expert[Free[bool]] = True
    """Page-locked batches, for faster copies to a GPU."""
    max_bad_samples: Expert[Free[Count]] = 100
    """Unreadable images are replaced and counted; the run ends if there are more than this."""

    def worker_count(self) -> int:
        """Return the number of workers to use."""
        return worker_count(self.num_workers)

    def idle(self) -> Iterator[Idle]:
        """As in `Settings`."""
        yield from super().idle()
        yield Idle(self.synthetic, ("crop", "crop_ratio"), "with --synthetic")


@dataclasses.dataclass(kw_only=True)
class DataSettings(LimitSettings, ReadSettings):
    """Where images come from. Give one of --ffcv, --dali, --data_path, --dataset, --synthetic."""

    error = SettingError

    def idle(self) -> Iterator[Idle]:
        """As in `Settings`."""
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
