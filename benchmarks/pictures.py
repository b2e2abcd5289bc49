"""Made-up pictures, for benchmarks of a machine that has no images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from fastimae.loaders.convert.run import ConvertOptions, convert

COUNT, SIDES, CLASSES = 200, (500, 375), 10


def made_up_beton(folder: Path, *, count: int = COUNT, sides: tuple[int, int] = SIDES) -> Path:
    """Make pictures and a .beton of them in a folder; return the .beton."""
    beton = folder / "made_up_pictures.beton"
    make_pictures(folder / "pictures", count, sides)
    convert(ConvertOptions(src=str(folder / "pictures"), out=beton))
    return beton


def make_pictures(folder: Path, count: int, sides: tuple[int, int]) -> None:
    """Write JPEGs of (width, height) pixels with about as many bytes as ImageNet's (500 x 375) or
    CIFAR's (32 x 32): coarse shapes under fine noise."""
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        pixels = np.asarray(coarse.resize(sides, Image.BICUBIC), np.int16)
        noise = rng.normal(0, 6, pixels.shape).astype(np.int16)
        file = folder / str(number % CLASSES) / f"{number:04d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8)).save(file, quality=90)
