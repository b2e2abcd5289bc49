"""Images as user code and .npy files have them: PIL images, arrays and tensors, in either layout.

Values are uint8 or uint16. Which axis is the channels, of [H, W, C] and [C, H, W]:

1. If their number is known (--in_chans) and not 1 or 3, the axis of so many values. If it is both
   axes, that is an error.
2. Otherwise the axis of 3, 1 or 4 values: the last one, or else the first. (Four values of 8 bits
   are RGB and alpha, which is dropped, with --in_chans 1 or 3; those of files never are.)
3. Otherwise the shorter one of the two axes. If they are equal, that is an error.

B images, H height, W width, C channels.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fastimae.loaders.image_location import SkipImage
from fastimae.loaders.images.bands import AnyImage, BandImage, check_form
from fastimae.loaders.images.pixel_form import RGB8, PixelForm
from fastimae.loaders.images.pixels import MODES, eight_bits

_CHANNELS = (3, 1, 4)
"""Numbers of channels by which their axis is known; of ordinary images, the fourth is alpha."""
_PIL_CHANNELS = (1, 3)
"""--in_chans with which images are ordinary ones."""
TO_UINT8 = (
    "return uint8 (0 to 255): PILToTensor in place of ToTensor, and no Normalize, as the model "
    "normalises images itself (or uint16, 0 to 65535)"
)


class NotAnImage(SkipImage):
    """A value that is no image by the rules above. The message says how to make it one."""


def as_image(value: Any, channels: int | None = None) -> AnyImage:
    """Convert an image of any size to a PIL image, or to a BandImage if PIL has none like it.

    channels: the number that is wanted (--in_chans); None: as many as it has. Raises NotAnImage.
    """
    if isinstance(value, Image.Image | BandImage):
        return value
    pixels_HWC = _array(value)
    if pixels_HWC.ndim == 2:
        pixels_HWC = pixels_HWC[..., None]
    elif pixels_HWC.ndim != 3:
        raise NotAnImage(f"{_described(value)} has not the shape [H, W, C], [C, H, W] or [H, W]")
    pixels_HWC = channels_last(pixels_HWC, channels)
    ordinary = _PIL_CHANNELS if channels is None else _CHANNELS if channels in _PIL_CHANNELS else ()
    if pixels_HWC.dtype != np.uint8 or pixels_HWC.shape[-1] not in ordinary:
        return BandImage(pixels_HWC)
    pixels_HWC = pixels_HWC[..., 0] if pixels_HWC.shape[-1] == 1 else pixels_HWC
    return Image.fromarray(np.ascontiguousarray(pixels_HWC))


def as_pixels(
    value: Any, shape: tuple[int, int, int], dtype: np.dtype = RGB8.dtype
) -> NDArray[np.uint8 | np.uint16]:
    """Convert an image to `shape`, [H, W, C]. Raises NotAnImage if it has another size, SkipImage
    if it has other channels or another type."""
    height, width, channels = shape
    image = as_image(value, channels)
    if image.size != (width, height):
        raise NotAnImage(f"{image.height} x {image.width} pixels instead of {height} x {width}")
    if isinstance(image, BandImage) or dtype != np.uint8 or channels not in _PIL_CHANNELS:
        check_form(image, PixelForm(channels, dtype))
        return image.pixels_HWC
    return np.asarray(eight_bits(image, MODES[channels])).reshape(shape)


def channels_last(images: Any, channels: int | None = None) -> Any:
    """Return a view of images (array or tensor) whose last axis is the channels, [..., H, W, C].

    channels: their number if it is known. Raises NotAnImage where the rules above find none.
    """
    *_, first, _, last = images.shape
    if _is_last(images, first, last, channels):
        return images
    if isinstance(images, np.ndarray):
        return np.moveaxis(images, -3, -1)
    return images.movedim(-3, -1)


def _is_last(images: Any, first: int, last: int, channels: int | None) -> bool:
    """Return whether the last axis is the channels; if not, the one before height and width is."""
    if channels not in (None, *_PIL_CHANNELS):
        if channels not in (first, last):
            raise NotAnImage(f"{_described(images)} has no axis of {channels} channels")
    elif known := [number for number in (last, first) if number in _CHANNELS]:
        return known[0] == last
    if first == last:
        raise NotAnImage(
            f"{_described(images)}: either axis of {last} could be the channels: make height and "
            "width differ from their number"
        )
    return last == channels if channels not in (None, *_PIL_CHANNELS) else last < first


def label_of(value: Any) -> int:
    """Return a label that is a whole number, as Python, NumPy and torch have them; else -1."""
    if getattr(value, "ndim", None) == 0:
        value = value.item()
    return value if isinstance(value, int) and not isinstance(value, bool) else -1


def labels_in(values: Any, count: int) -> NDArray[np.int64] | None:
    """Return `count` labels as int64; None if these are not as many whole numbers."""
    if (
        not (isinstance(values, Sequence | np.ndarray) or _is_tensor(values))
        or len(values) != count
    ):
        return None
    try:
        labels = np.asarray(values)
    except (ValueError, TypeError, RuntimeError):  # of different lengths, or on a GPU
        return None
    whole = labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer)
    return labels.astype(np.int64) if whole else None


def _array(value: Any) -> NDArray[np.uint8 | np.uint16]:
    if not (isinstance(value, np.ndarray) or _is_tensor(value)):
        kind = type(value).__name__
        raise NotAnImage(f"a {kind} is not an image: return a PIL image, or uint8 [H, W, C]")
    if str(value.dtype).removeprefix("torch.") not in ("uint8", "uint16"):
        raise NotAnImage(f"{_described(value)} is not uint8: {TO_UINT8}")
    return value.detach().cpu().numpy() if _is_tensor(value) else value


def _is_tensor(value: Any) -> bool:
    """Return whether it is torch's, without an import of torch: that takes processes seconds."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _described(value: Any) -> str:
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
