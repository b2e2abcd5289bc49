"""How far decoded images are from what Pillow makes of the same windows."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.loaders.base import LoadJob, Pixels
from benchmarks.loaders.images import ImageSet
from fastimae.loaders.beton.reader import BetonReader


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference:
    """The difference over all values of all images that were compared."""

    images: int
    mean: float
    """Absolute, on a scale of 255."""
    largest: int
    """Absolute, on a scale of 255."""
    unequal: float
    """Share of pixels in which a channel differs."""


def difference(decoded: Iterator[Pixels], job: LoadJob, count: int) -> Difference:
    """Compare at least `count` images with Pillow's crop and resize of the sample's file."""
    total = images = pixels = unequal = largest = 0
    with BetonReader(job.images.beton) as reader:
        while images < count:
            batch = next(decoded)
            heights, widths = reader.heights[batch.index], reader.widths[batch.index]
            windows, flips = job.crops.draw(batch.key, heights, widths)
            for row, index in enumerate(batch.index.tolist()):
                expected = by_pillow(job.images, index, windows[row], flips[row], job.crops.size)
                away = np.abs(batch.images[row].astype(np.int16) - expected)
                total += int(away.sum())
                pixels += away[..., 0].size
                unequal += int(away.any(axis=-1).sum())
                largest = max(largest, int(away.max()))
            images += len(batch.index)
    return Difference(
        images=images, mean=total / (3 * pixels), largest=largest, unequal=unequal / pixels
    )


def by_pillow(
    images: ImageSet, index: int, window: NDArray[np.int64], flip: bool, size: tuple[int, int]
) -> NDArray[np.uint8]:
    """Decode a window from scratch, without our loaders: uint8 [H, W, 3]."""
    top, left, height, width = window.tolist()
    with Image.open(images.path(index)) as image:
        part = image.convert("RGB").crop((left, top, left + width, top + height))
    part = part.resize(size[::-1], Image.Resampling.BICUBIC)
    if flip:
        part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(part)
