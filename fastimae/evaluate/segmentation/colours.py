"""Photometric distortion: brightness, contrast, saturation and hue, each with a chance of one half.

The ranges are the field's (SSD's, and MMSegmentation's defaults): brightness +-32 of 255, contrast
and saturation x 0.5 to 1.5, hue +-18 of 180. Contrast comes before or after the colours.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

BRIGHTNESS = 32.0
FACTORS = (0.5, 1.5)
HUE = 18 / 180
"""Of the whole circle."""


def distort(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Return an image in RGB with random changes, drawn from `rng`."""
    brightness = rng.uniform(-BRIGHTNESS, BRIGHTNESS) if _chance(rng) else 0.0
    contrast = rng.uniform(*FACTORS) if _chance(rng) else 1.0
    saturation = rng.uniform(*FACTORS) if _chance(rng) else 1.0
    hue = rng.uniform(-HUE, HUE) if _chance(rng) else 0.0
    if _chance(rng):
        return recoloured(scaled(image, contrast, brightness), saturation, hue)
    return scaled(recoloured(scaled(image, 1.0, brightness), saturation, hue), contrast, 0.0)


def scaled(image: Image.Image, factor: float, shift: float) -> Image.Image:
    """Return an image whose pixels are (value + shift) * factor, clipped and rounded."""
    if factor == 1.0 and shift == 0.0:
        return image
    return image.point(_scaled_values(factor, shift) * len(image.getbands()))


def recoloured(image: Image.Image, saturation: float, hue: float) -> Image.Image:
    """Return an image in RGB with saturation times a factor, and hue turned.

    hue: the part of a circle to turn by.
    """
    if saturation == 1.0 and hue == 0.0:
        return image
    turned = [(value + round(hue * 256)) % 256 for value in range(256)]
    tables = [*turned, *_scaled_values(saturation, 0.0), *range(256)]
    return image.convert("HSV").point(tables).convert("RGB")


def _scaled_values(factor: float, shift: float) -> list[int]:
    """Return what each value from 0 to 255 becomes."""
    shifted = (np.arange(256) + shift).clip(0, 255)
    return np.rint(shifted * factor).clip(0, 255).astype(int).tolist()


def _chance(rng: np.random.Generator) -> bool:
    return bool(rng.random() < 0.5)
