"""Reads a mask: the number of a class for each pixel, or 255 where pixels do not count.

H, W = height and width.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fastimae.loaders.errors import DataError
from fastimae.loaders.image_location import ImageLocation
from fastimae.loaders.images.decode import errors_skip
from fastimae.loaders.images.limits import open_image

IGNORE = 255
"""The value of pixels that count neither in training nor in scores."""
_LOSSY = {"JPEG": "a JPEG", "MPO": "a JPEG", "AVIF": "an AVIF"}


def read_values(path: str) -> NDArray[np.int64 | np.uint8]:
    """Return the numbers in a mask's file: [H, W].

    Numbers may be those of a palette's colours, or of gray with 1 to 32 bits; gray that is stored
    as equal colours is read as well. Raises SkipImage for a broken file, and DataError for colours
    and fractions, as they are no numbers of classes, and for a lossy format, which changes numbers.
    """
    with errors_skip():
        data = ImageLocation(path).read()
        image = open_image(data)
        values = np.asarray(image)
    if lossy := _lossy_format(image, data):
        raise DataError(f"{path} is {lossy}, which changes class numbers: write masks as PNG")
    if values.ndim == 3:
        values = _gray(values, image, path)
    if values.dtype.kind == "f" and not (values == np.rint(values)).all():  # NaN is not, either
        raise DataError(f"{path} has fractions, not class numbers: write them as 8-bit gray")
    return values.astype(np.uint8 if image.mode in ("1", "L", "P") else np.int64, copy=False)


def _lossy_format(image: Image.Image, data: bytes) -> str | None:
    """Return the format of a file in words, whatever its name, if it does not keep pixels exactly.

    image: as Pillow opened `data`. JPEG 2000 is taken for lossless, as Pillow writes it.
    """
    if image.format == "WEBP":
        return None if b"VP8L" in _chunks(data) else "a lossy WebP"
    if image.format == "TIFF" and image.info.get("compression") in ("jpeg", "webp"):
        return f"a TIFF with {image.info['compression']} compression"
    return _LOSSY.get(image.format)


def _chunks(data: bytes) -> set[bytes]:
    """Return the kinds of chunks in a WebP file, a RIFF: each has a kind, its length, and bytes."""
    kinds, at = set(), 12
    while at + 8 <= len(data):
        kinds.add(data[at : at + 4])
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8 + length + length % 2
    return kinds


def class_numbers(values: NDArray, path: str, *, first: int, classes: int) -> NDArray[np.uint8]:
    """Return the class of each pixel, uint8 [H, W], of the numbers in a mask, [H, W].

    first: the number of class 0; smaller ones become `IGNORE`. Raises DataError, which names `path`
    and the number, for a number beyond the classes.
    """
    counted = values[values != IGNORE]
    highest = int(counted.max(initial=0))
    if highest >= first + classes:
        raise DataError(
            f"{path} has the value {highest}, and there are {classes} classes, {first} to "
            f"{first + classes - 1} ({IGNORE}: does not count): name all of them with --classes"
        )
    if first == 0 and values.dtype == np.uint8:
        return values
    known = (values >= first) & (values != IGNORE)
    return np.where(known, values - first, IGNORE).astype(np.uint8)


def _gray(values: NDArray, image: Image.Image, path: str) -> NDArray:
    """Return the one number of each pixel whose colours are equal; alpha is dropped."""
    colours = values[..., : 1 if image.mode in ("LA", "PA", "La") else 3]
    if (colours != colours[..., :1]).any():
        found = len(np.unique(colours.reshape(-1, colours.shape[-1]), axis=0))
        raise DataError(
            f"{path} has colours ({image.mode}, {found} of them), not class numbers: write the "
            "number of its class for each pixel as 8-bit gray, such as "
            "mask[(rgb == COLOUR).all(-1)] = NUMBER in NumPy"
        )
    return colours[..., 0]
