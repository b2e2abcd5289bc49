"""The images that a run trains on: those that were brought, or made-up ones."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from fastimae.loaders.beton import BetonReader
from fastimae.loaders.convert import ConvertOptions, convert
from fastimae.loaders.errors import DataError

BETON, CIFAR = "images.beton", "cifar.beton"
COUNT, SIDES, CLASSES = 200, (500, 375), 10


def find_images(kit: Path, folder: Path) -> dict[str, Path | None]:
    """Fields of `Settings`: a .beton, the same JPEGs as folders of classes, and CIFAR-10's.

    kit: as `benchmarks.gpu_kit` made it; where it has no images, made-up ones are used, and said
    to be such. folder: for what is written.
    """
    beton, cifar, images = kit / BETON, kit / CIFAR, folder / "images"
    try:
        unpack(beton, images)
    except DataError as error:
        print(f"made-up pictures stand in for images: {error}", file=sys.stderr)
        beton = folder / "made_up_pictures.beton"
        make_pictures(folder / "pictures")
        convert(ConvertOptions(src=str(folder / "pictures"), out=beton))
        unpack(beton, images)
    return {"beton": beton, "images": images, "cifar": cifar if cifar.exists() else None}


def unpack(beton: Path, folder: Path) -> None:
    """Write the samples of a .beton as files in folders of classes, byte for byte."""
    with BetonReader(beton) as reader:
        for index, label in enumerate(reader.labels.tolist()):
            file = folder / f"{label:04d}" / f"{index:06d}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(reader.read(index))


def make_pictures(folder: Path) -> None:
    """JPEGs of the size of ImageNet's and about as many bytes: coarse shapes under fine noise."""
    rng = np.random.default_rng(0)
    for number in range(COUNT):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        pixels = np.asarray(coarse.resize(SIDES, Image.BICUBIC), np.int16)
        noise = rng.normal(0, 6, pixels.shape).astype(np.int16)
        file = folder / str(number % CLASSES) / f"{number:04d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8)).save(file, quality=90)
