"""Options of a conversion: each is a flag of `fastimae-convert`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from fastimae.cpus import usable_cores
from fastimae.loaders.convert.encode import EncodeSettings
from fastimae.loaders.errors import SettingError
from fastimae.loaders.images.limits import check_value_range
from fastimae.loaders.images.pixel_form import RGB8, PixelForm
from fastimae.settings import Expert, FileNames, PositiveInt, Seeded, Settings


@dataclasses.dataclass(kw_only=True)
class ConvertOptions(Settings):
    """The source, the output and the options of a conversion."""

    error = SettingError

    src: FileNames
    """A folder of class folders, a flat folder, a list file (lines `path [label]`), a tar file, a
    pattern of tar files (`shard-{000..146}.tar`), CIFAR-10/100 or Tiny-ImageNet as published; or a
    .beton file to check with --verify."""
    out: Path | None = None
    """The .beton file to write."""
    labels: Path | None = None
    """Labels of ImageNet's validation images: the devkit (.tar.gz, folder, or the ground truth in
    it), or Kaggle's LOC_val_solution.csv."""
    max_resolution: PositiveInt | None = None
    """Shrink images whose longer side exceeds this many pixels. None: no limit."""
    jpeg_quality: int = EncodeSettings.jpeg_quality
    """Quality of images that have to be encoded; a JPEG that fits is kept as it is."""
    reencode: bool = False
    """Re-encode every image, even if it fits: lossy, but smaller and faster to load."""
    mode: Literal["jpg", "raw"] = EncodeSettings.mode
    """raw: store pixels, lossless, large and fast to load; images larger than a page are shrunk."""
    workers: PositiveInt | None = None
    """Number of processes. None: one per core."""
    limit: PositiveInt | None = None
    """Use only this many images, drawn at random by --seed. None: all."""
    seed: Expert[int] = Seeded.seed
    """Seed of the sample order in the file."""
    page_size: Expert[int] = EncodeSettings.page_size
    """Page size in bytes, a power of two. An image that does not fit in a page, with checksum and
    index, is shrunk and reported."""
    max_pixels: Expert[PositiveInt | None] = None
    """Skip images with more pixels. Decoding takes 4 bytes per pixel in every process. None:
    Pillow's limit, 89 million pixels (358 MB)."""
    value_range: Expert[tuple[float, float] | None] = None
    """LOW HIGH: values that become 0 and 255, in images of more than 8 bits. None: scale 16 bits;
    skip float and 32-bit images (unknown range)."""
    depth: Literal[8, 16] = EncodeSettings.depth
    """16: keep all bits of 16-bit images (raw). The first image decides about channels and type;
    others that differ are skipped."""
    in_chans: Expert[PositiveInt | None] = None
    """Channels of .npy arrays and TIFFs, if not 3. None: as in the first one."""
    verify: bool = False
    """Check and decode every sample once OUT is written; without OUT, those of SRC."""
    strict: bool = False
    """Exit with an error if an image is skipped."""
    overwrite: bool = False
    """Replace OUT if it exists."""

    def check(self) -> None:
        """Check the fields, see `Settings`."""
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
            self.require(
                self.depth == 8,
                "--value_range maps to 8 bits, --depth 16 keeps 16: leave out one of them",
            )

    def worker_count(self) -> int:
        """Return the number of processes to use."""
        return self.workers or usable_cores()

    def flags_to_shrink(self, form: PixelForm = RGB8) -> list[str]:
        """Return the flags that would make the file smaller."""
        first = {"raw": ["--mode jpg"], "jpg": [] if self.reencode else ["--reencode"]}[self.mode]
        first = first if form == RGB8 else []
        smaller = "--max_resolution 500" if self.max_resolution is None else "--max_resolution"
        return [*first, smaller, "--limit"]

    def encode_settings(self, form: PixelForm = RGB8) -> EncodeSettings:
        """Select the options that concern single images. form: of the pixels that they all have."""
        fields = {field.name for field in dataclasses.fields(EncodeSettings)} - {"form"}
        settings = EncodeSettings(**{name: getattr(self, name) for name in fields}, form=form)
        return settings if form == RGB8 else dataclasses.replace(settings, mode="raw")
