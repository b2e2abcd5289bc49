"""Opens a sample of a `.beton` file as a Pillow image, after checking it."""

from __future__ import annotations

import numpy as np
from PIL import Image

from fastimae.loaders.beton.reader import BetonReader
from fastimae.loaders.image_location import SkipImage
from fastimae.loaders.images.bands import AnyImage, BandImage
from fastimae.loaders.images.limits import check_pixels, open_image
from fastimae.loaders.images.pixel_form import RGB8


def check_sample(reader: BetonReader, index: int) -> None:
    """Raise SkipImage for a sample that is damaged, or has more pixels than the limit."""
    check_pixels(int(reader.widths[index]), int(reader.heights[index]))
    problem = reader.problem(index)
    if problem is not None:
        raise SkipImage(problem)


def open_sample(reader: BetonReader, index: int) -> AnyImage:
    """Open sample `index` as an image. Raises if it is damaged, over the pixel limit, or
    not of the size in the file's table."""
    check_sample(reader, index)
    size = int(reader.widths[index]), int(reader.heights[index])
    data = reader.read(index)
    if reader.form != RGB8:
        pixels = np.frombuffer(data, reader.form.dtype.newbyteorder("<"))
        return BandImage(pixels.astype(reader.form.dtype, copy=False).reshape(*size[::-1], -1))
    if not reader.is_jpeg[index]:
        return Image.frombytes("RGB", size, data)
    image = open_image(data, ["JPEG"])
    if image.size != size:
        raise SkipImage(f"it has {image.size} pixels, the file's table says {size}")
    return image
