"""The options of a conversion; each becomes a flag of `fastimae-convert`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from fastimae.loaders.encode import EncodeSettings
from fastimae.loaders.errors import SettingError
from fastimae.loaders.limits import check_value_range
from fastimae.machine import usable_cores
from fastimae.settings import PositiveInt, Seeded, Settings


@dataclasses.dataclass(kw_only=True)
class ConvertOptions(Settings):
    """What to convert, and how."""

    error = SettingError

    src: str
    """Folder of class folders, flat folder, list file (lines `path [label]`), tar file, pattern
    of tar files (`shard-{000..146}.tar`), CIFAR-10/100 or Tiny-ImageNet as published; or a
    .beton file to check with --verify."""
    out: Path | None = None
    """The .beton file to write."""
    labels: Path | None = None
    """Labels of ImageNet's validation images: the devkit (ILSVRC2012_devkit_t12.tar.gz, its folder,
    or the ground truth in it), or LOC_val_solution.csv of Kaggle."""
    max_resolution: PositiveInt | None = None
    """Shrink images whose longer side exceeds this (pixels)."""
    jpeg_quality: int = EncodeSettings.jpeg_quality
    """Of images that have to be encoded; a JPEG that fits is passed through untouched."""
    reencode: bool = False
    """Encode every image anew, also those that fit: lossy, but smaller and faster to load."""
    mode: Literal["jpg", "raw"] = EncodeSettings.mode
    """raw: pixels, lossless and large, fast to load; images larger than a page are shrunk."""
    workers: PositiveInt | None = None
    """Processes; by default one for each core."""
    limit: PositiveInt | None = None
    """Take only so many images, drawn at random by --seed."""
    seed: int = Seeded.seed
    """Of the order of the samples in the file."""
    page_size: int = EncodeSettings.page_size
    """Bytes, a power of two; no sample with its checksum and index may be larger: if it would be,
    the image is shrunk, and the report says so."""
    max_pixels: PositiveInt | None = None
    """Skip images with more pixels, which take 4 bytes of memory each in every process. None:
    Pillow's limit, 89 million pixels (358 MB)."""
    value_range: tuple[float, float] | None = None
    """LOW HIGH, of images of more than 8 bits: what becomes 0 and 255. None: 16 bits are scaled;
    floating-point and 32-bit images, which have no known range, are skipped."""
    verify: bool = False
    """Check and decode every sample of the file when it is written, or of SRC without OUT."""
    strict: bool = False
    """Exit with an error if an image was skipped."""
    overwrite: bool = False
    """Replace OUT if it exists."""

    def check(self) -> None:
        """As of `Settings`."""
        super().check()
        quality, page = self.jpeg_quality, self.page_size
        self.require(1 <= quality <= 100, f"--jpeg_quality must be 1 to 100, not {quality}")
        self.require(
            1 << 12 <= page < 1 << 32 and not page & (page - 1),
            f"--page_size must be a power of two below 4 GiB, not {page}",
        )
        self.require(
            not self.reencode or self.mode != "raw",
            "--reencode has no effect with --mode raw: leave out one of them",
        )
        if self.value_range is not None:
            check_value_range(self.value_range)

    def worker_count(self) -> int:
        """Processes to use."""
        return self.workers or usable_cores()

    def encode_settings(self) -> EncodeSettings:
        """The part that concerns single images."""
        names = [field.name for field in dataclasses.fields(EncodeSettings)]
        return EncodeSettings(**{name: getattr(self, name) for name in names})
