"""Bicubic, antialiased resizing: the same pixels with every version of Pillow.

Pillow resizes in two passes and rounds between them, so their order changes pixels. Pillow 13 and
newer begin with the vertical pass where that saves work, older versions never do. The decode engine
takes Pillow 13's order, and so does this function.
"""

from __future__ import annotations

from PIL import Image

_FILTER = Image.Resampling.BICUBIC


def resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resize an image to (width, height)."""
    vertical_first = is_vertical_first(image.size, size)
    between = (image.width, size[1]) if vertical_first else (size[0], image.height)
    return image.resize(between, _FILTER).resize(size, _FILTER)


def is_vertical_first(before: tuple[int, int], after: tuple[int, int]) -> bool:
    """Return whether the vertical pass is the first, for sizes as (width, height).

    `is_vertical_first` of csrc/resize.cc is the same rule.
    """
    rows, columns = before[1] - after[1], before[0] - after[0]
    return rows > 0 and rows > 2 * columns
