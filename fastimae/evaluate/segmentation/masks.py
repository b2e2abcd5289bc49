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


def read_values(path: str) -> NDArray[np.int64 | np.uint8]:
    """Return the numbers in a mask's file: [H, W].

    Numbers may be those of a palette's colours, or of gray with 1 to 32 bits; gray that is stored
    as equal colours is read as well. Raises SkipImage for a broken file, and DataError for colours
    and fractions, as they are no numbers of classes.
    """
    with errors_skip():
        image = open_image(ImageLocation(path).read())
        values = np.asarray(image)
    if values.ndim == 3:
        values = _gray(values, image, path)
    if values.dtype.kind == "f" and not (values == np.rint(values)).all():  # NaN is not, either
        raise DataError(f"{path} has fractions, not class numbers: write them as 8-bit gray")
    return values.astype(np.uint8 if image.mode in ("1", "L", "P") else np.int64, copy=False)


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
