"""Photometric distortion: brightness, contrast, saturation and hue, each with a chance of one half.

The ranges are the field's (SSD's, and MMSegmentation's defaults): brightness +-32 of 255, contrast
and saturation x 0.5 to 1.5, hue +-18 of 180. Contrast comes before or after the colours.

H, W = height and width.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

BRIGHTNESS = 32.0
FACTORS = (0.5, 1.5)
HUE = 18 / 180
"""Of the whole circle."""


def distort(pixels: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return pixels, uint8 [H, W, 3], with random changes, drawn from `rng`."""
    brightness = rng.uniform(-BRIGHTNESS, BRIGHTNESS) if _chance(rng) else 0.0
    contrast = rng.uniform(*FACTORS) if _chance(rng) else 1.0
    saturation = rng.uniform(*FACTORS) if _chance(rng) else 1.0
    hue = rng.uniform(-HUE, HUE) if _chance(rng) else 0.0
    if _chance(rng):
        return recoloured(scaled(pixels, contrast, brightness), saturation, hue)
    return scaled(recoloured(scaled(pixels, 1.0, brightness), saturation, hue), contrast, 0.0)


def scaled(pixels: NDArray[np.uint8], factor: float, shift: float) -> NDArray[np.uint8]:
    """Return (pixels + shift) * factor, clipped and rounded; uint8 of any shape."""
    if factor == 1.0 and shift == 0.0:
        return pixels
    shifted = (np.arange(256) + shift).clip(0, 255)
    return np.rint(shifted * factor).clip(0, 255).astype(np.uint8)[pixels]


def recoloured(pixels: NDArray[np.uint8], saturation: float, hue: float) -> NDArray[np.uint8]:
    """Return pixels, uint8 [H, W, 3], with saturation times a factor, and hue turned.

    hue: the part of a circle to turn by.
    """
    if saturation == 1.0 and hue == 0.0:
        return pixels
    hsv = np.array(Image.fromarray(pixels).convert("HSV"))
    hsv[..., 0] = (np.arange(256) + round(hue * 256)).astype(np.uint8)[hsv[..., 0]]
    hsv[..., 1] = scaled(hsv[..., 1], saturation, 0.0)
    return np.asarray(Image.frombytes("HSV", pixels.shape[1::-1], hsv.tobytes()).convert("RGB"))


def _chance(rng: np.random.Generator) -> bool:
    return bool(rng.random() < 0.5)
