"""Images as user code returns them: PIL images, or uint8 arrays and tensors in either layout.

The axis of 1 or 3 values is the channels: the last one, [H, W, C], or else the first, [C, H, W].

B images, H height, W width, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from fastimae.loaders.image_location import SkipImage
from fastimae.loaders.images.pixels import MODES, eight_bits

_CHANNELS = (3, 1, 4)
"""Numbers of channels; the fourth is alpha, which is dropped."""
TO_UINT8 = (
    "return uint8 (0 to 255): PILToTensor in place of ToTensor, and no Normalize, as the model "
    "normalises images itself"
)


class NotAnImage(SkipImage):
    """A value that is no image by the rules above. The message says how to make it one."""


def as_image(value: Any) -> Image.Image:
    """Convert an image of any size to a PIL image. Raises NotAnImage."""
    if isinstance(value, Image.Image):
        return value
    pixels_HWC = _array(value)
    if pixels_HWC.ndim == 3:
        pixels_HWC = channels_last(pixels_HWC)
        pixels_HWC = pixels_HWC[..., 0] if pixels_HWC.shape[-1] == 1 else pixels_HWC
    elif pixels_HWC.ndim != 2:
        raise NotAnImage(f"{_described(value)} has not the shape [H, W, C], [C, H, W] or [H, W]")
    return Image.fromarray(np.ascontiguousarray(pixels_HWC))


def as_pixels(value: Any, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Convert an image to uint8 of `shape`, [H, W, C]. Raises NotAnImage if it has another size."""
    image = as_image(value)
    height, width, channels = shape
    if image.size != (width, height):
        raise NotAnImage(f"{image.height} x {image.width} pixels instead of {height} x {width}")
    return np.asarray(eight_bits(image, MODES[channels])).reshape(shape)


def channels_last(images: Any) -> Any:
    """Return a view of images (array or tensor) whose last axis is the channels, [..., H, W, C]."""
    *_, first, _, last = images.shape
    if last in _CHANNELS:
        return images
    if first in _CHANNELS:
        module = torch if isinstance(images, torch.Tensor) else np
        return module.moveaxis(images, -3, -1)
    raise NotAnImage(
        f"{_described(images)} has no axis of 1 or 3 channels, neither the last nor the one "
        "before height and width"
    )


def label_of(value: Any) -> int:
    """Return a label that is a whole number, as Python, NumPy and torch have them; else -1."""
    if getattr(value, "ndim", None) == 0:
        value = value.item()
    return value if isinstance(value, int) and not isinstance(value, bool) else -1


def labels_in(values: Any, count: int) -> NDArray[np.int64] | None:
    """Return `count` labels as int64; None if these are not as many whole numbers."""
    if not isinstance(values, Sequence | np.ndarray | torch.Tensor) or len(values) != count:
        return None
    try:
        labels = np.asarray(values)
    except (ValueError, TypeError, RuntimeError):  # of different lengths, or on a GPU
        return None
    whole = labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer)
    return labels.astype(np.int64) if whole else None


def _array(value: Any) -> NDArray[np.uint8]:
    if not isinstance(value, np.ndarray | torch.Tensor):
        kind = type(value).__name__
        raise NotAnImage(f"a {kind} is not an image: return a PIL image, or uint8 [H, W, C]")
    if str(value.dtype).removeprefix("torch.") != "uint8":
        raise NotAnImage(f"{_described(value)} is not uint8: {TO_UINT8}")
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().numpy()
    return value


def _described(value: Any) -> str:
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
