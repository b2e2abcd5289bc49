"""The images of a section: as a .beton file and, with the same bytes, as JPEG files."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastimae.loaders.beton.reader import BetonReader
from fastimae.loaders.convert.run import ConvertOptions, convert
from fastimae.loaders.errors import DataError


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageSet:
    """The images that all loaders of a section load."""

    section: str
    """"beton" for --data, "originals" for --folder."""
    beton: Path
    folder: Path
    """An ImageFolder of the samples in `subset`."""
    subset: NDArray[np.int64]
    """The samples of `beton` that are used."""
    facts: dict[str, object]
    """How many there are, and their size on average."""

    def path(self, index: int) -> Path:
        """Return the file of sample `index` of the .beton."""
        return self.folder / "all" / f"{index:08d}.jpg"


def image_set(
    section: str, beton: Path, scratch: Path, count: int, seed: int, source: str | None = None
) -> ImageSet:
    """Draw `count` samples of a .beton, or take all, and write them to a folder in `scratch`.

    That also brings both forms into the page cache. source: its name for people; None: the file's.
    Raises DataError if one of the samples is not a JPEG.
    """
    folder = scratch / section
    with BetonReader(beton) as reader:
        drawn = np.random.default_rng(seed).permutation(len(reader))[:count]
        subset = np.sort(drawn).astype(np.int64)
        if not reader.is_jpeg[subset].all():
            raise DataError(f"{beton} has raw pixels: the benchmark compares decoders of JPEGs")
        found = ImageSet(
            section=section,
            beton=beton,
            folder=folder,
            subset=subset,
            facts={
                "source": source or beton.name,
                "images": len(subset),
                "mean_bytes": float(np.mean([reader.region(i)[1] for i in subset.tolist()])),
                "mean_height": float(reader.heights[subset].mean()),
                "mean_width": float(reader.widths[subset].mean()),
            },
        )
        (folder / "all").mkdir(parents=True)
        for index in subset.tolist():
            found.path(index).write_bytes(reader.read(index))
    return found


def original_images(folder: Path, scratch: Path, count: int, seed: int) -> ImageSet:
    """Take `count` images of a folder; JPEG files keep their bytes."""
    beton = scratch / f"{folder.name}.beton"
    convert(ConvertOptions(src=str(folder), out=beton, limit=count, seed=seed))
    return image_set("originals", beton, scratch, count, seed, f"{folder.name}, original files")
