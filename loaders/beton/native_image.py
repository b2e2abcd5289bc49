"""A Pillow image of a `.beton` sample that our own engine decodes when its pixels are needed.

It is for callers whose transforms are Pillow's: fine-tuning and evaluation. The pixels are
Pillow's, bit for bit, and a crop decodes only its window. Pillow reads what the engine does not
support.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fastimae.loaders import native_library
from fastimae.loaders.beton.image import check_sample, open_sample
from fastimae.loaders.beton.reader import BetonReader
from fastimae.loaders.images.decode import errors_skip
from fastimae.loaders.images.pixels import Box, Mode, converted, eight_bits


class NativeImage(Image.Image):
    """Like an image that Pillow has opened: its size is known, its pixels are decoded on demand.

    Raises SkipImage if the sample cannot be decoded: when it is opened, or when it is decoded.
    """

    def __init__(self, reader: BetonReader, index: int) -> None:
        super().__init__()
        with errors_skip():
            check_sample(reader, index)
        self._reader, self._index, self._decoded = reader, index, False
        self._mode, self._size = "RGB", (int(reader.widths[index]), int(reader.heights[index]))

    def to(self, mode: Mode) -> NativeImage:
        """Change the mode of this image, which is not decoded yet, and return it."""
        self._mode = mode
        return self

    def load(self) -> Any:
        """Decode the image."""
        if not self._decoded:
            self.im, self._decoded = self._part((0, 0, *self.size)).im, True
        return super().load()

    def crop(self, box: Box | None = None) -> Image.Image:
        """Return the part in `box`, (left, top, right, bottom); nothing else is decoded."""
        return super().crop(box) if box is None or self._decoded else self._part(box)

    def _part(self, box: Box) -> Image.Image:
        with errors_skip():
            pixels = _decoded(self._reader, self._index, box)
            if pixels is None:
                return eight_bits(open_sample(self._reader, self._index), self.mode, box)
            return converted(Image.fromarray(pixels), self.mode)


def _decoded(reader: BetonReader, index: int, box: Box) -> NDArray[np.uint8] | None:
    """Decode the part in `box` of a checked sample; None if Pillow has to.

    Returns uint8 [height, width, 3], or [height, width] if it is gray.
    """
    left, top, right, bottom = box
    height, width = int(reader.heights[index]), int(reader.widths[index])
    library = native_library.load()
    inside = 0 <= left < right <= width and 0 <= top < bottom <= height
    if library is None or not inside or not reader.is_jpeg[index]:
        return None
    trailer = reader.trailer(index)
    _, _, pixels = library.decode(
        reader.read(index),
        (height, width),
        (top, left, bottom - top, right - left),
        own_entropy=bool(library.own_entropy()),
        rows=trailer and trailer.rows,
    )
    return pixels if pixels is None or pixels.shape[-1] == 3 else pixels[..., 0]
