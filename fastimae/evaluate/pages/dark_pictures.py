"""Dark versions of the figures that tasks draw on white; photographs in them stay as they are."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fastimae.pictures.plots import PHOTOGRAPHS

CARD, INK = (0x1D, 0x20, 0x24), (0xE7, 0xE6, 0xE3)
"""What white and black become: --card and --ink of the style sheet's dark colours."""


def dark_layer(path: Path) -> bytes | None:
    """Return a PNG to lay over a figure on a dark page, transparent where photographs are.

    None for a picture of another program or of an earlier version, which do not record where
    photographs are: it is best left alone. None also for a broken file.
    """
    try:
        with Image.open(path) as picture:
            boxes = getattr(picture, "text", {}).get(PHOTOGRAPHS)
            if boxes is None:
                return None
            pixels = np.asarray(picture.convert("RGB"), np.float32)
    except OSError:
        return None
    layer = np.dstack([darkened(pixels), _opaque(pixels.shape[:2], json.loads(boxes))])
    file = io.BytesIO()
    Image.fromarray(layer).save(file, "PNG")
    return file.getvalue()


def darkened(pixels: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Exchange light and dark, and keep hues. pixels: [H, W, 3] in 0..255."""
    light = (pixels.max(-1, keepdims=True) + pixels.min(-1, keepdims=True)) / 2
    share = light / 255
    swapped = share * np.float32(CARD) + (1 - share) * np.float32(INK)
    return (pixels - light + swapped).clip(0, 255).round().astype(np.uint8)


def _opaque(size: tuple[int, int], boxes: Sequence[Sequence[float]]) -> NDArray[np.uint8]:
    """Return the layer's alpha channel: 0 in the boxes, 255 elsewhere."""
    alpha = np.full(size, 255, np.uint8)
    for left, top, right, bottom in boxes:
        alpha[round(max(top, 0)) : round(bottom), round(max(left, 0)) : round(right)] = 0
    return alpha
