"""What Pillow has decoded in 8 bits: the one reading of a pixel, for every reader and evaluation.

The rules are those of torchvision's ImageFolder (alpha is dropped, a palette gives its colours),
but for images of more than 8 bits, which Pillow alone would clip to white or black:

- of 16-bit gray the 8 highest bits are kept, of a TIFF of 12 bits those of the 12;
- where a TIFF says that zero is white, levels are turned round, as Pillow does of 8 bits;
- floating-point numbers and 32-bit or signed integers have no known range: such an image is bad;
- with --value_range all of these are mapped from LOW..HIGH to 0..255, clipped and rounded. A NaN
  makes an image bad, infinities are clipped;
- 16-bit colours come from Pillow in 8 bits, so --value_range cannot map them: then they are bad.

Whether an image is bad is a matter of the whole of it, never of the part that is shown.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fastimae.loaders.depth import depth
from fastimae.loaders.items import SkipImage
from fastimae.loaders.limits import named_range, value_range

Mode = Literal["RGB", "L"]
Box = tuple[int, int, int, int]
"""(left, top, right, bottom) in pixels."""

MODES: dict[int, Mode] = {3: "RGB", 1: "L"}
"""Pillow's name of so many channels."""
DEEP_GRAY = ("I", "I;16", "I;16L", "I;16B", "I;16N", "F")
_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
"""TIFF's tags."""
_WHITE_IS_ZERO, _UNSIGNED, _SIGNED = 0, 1, 2


def eight_bits(image: Image.Image, mode: Mode = "RGB", box: Box | None = None) -> Image.Image:
    """An opened image, or its part in `box`, as a new one of 8 bits a channel.

    Gray is made of RGB, whatever the image has, as from a .beton file. Raises SkipImage where
    that is not possible, or what Pillow raises of a damaged file.
    """
    check_deep_colour(image)
    bounds, deep = value_range(), image.mode in DEEP_GRAY or _is_signed8(image)
    if deep:
        _check_values(image)
    part = image.crop(box) if box else image.copy()
    part.info.pop("transparency", None)  # alpha is dropped; of some kinds Pillow would warn
    if deep:
        values = _stored(image, np.asarray(part))
        kept = _mapped(values, *bounds) if bounds else values >> (gray_bits(image) - 8)
        white_is_zero = _tag(image, _PHOTOMETRIC, 1) == _WHITE_IS_ZERO
        part = Image.fromarray((255 - kept if white_is_zero else kept).astype(np.uint8))
    return converted(part, mode)


def _tag(image: Image.Image, tag: int, default: int) -> int:
    """What a TIFF says, of its first channel; `default` where it says nothing, and for others."""
    said = image.tag_v2.get(tag, default) if image.format == "TIFF" else default
    return said[0] if isinstance(said, tuple) else said


def _is_signed8(image: Image.Image) -> bool:
    """Whether a gray TIFF has numbers from -128 to 127, which Pillow takes for 0 to 255."""
    return image.mode == "L" and _tag(image, _SAMPLE_FORMAT, _UNSIGNED) == _SIGNED


def _stored(image: Image.Image, values: NDArray) -> NDArray:
    """Pixels of deep gray as the numbers in the file; Pillow does not keep their signs apart."""
    if _is_signed8(image):
        return values.view(np.int8)
    unsigned = _tag(image, _SAMPLE_FORMAT, _UNSIGNED) == _UNSIGNED
    is_word = image.format == "TIFF" and _tag(image, _BITS_PER_SAMPLE, 16) == 32
    return values.view(np.uint32) if image.mode == "I" and unsigned and is_word else values


def converted(image: Image.Image, mode: Mode) -> Image.Image:
    """An image of 8 bits a channel in `mode`: itself if it has it."""
    if image.mode == mode:
        return image
    try:
        image = image if image.mode == "RGB" else image.convert("RGB")
    except ValueError as error:
        raise SkipImage(f"{image.mode} pixels: {error}") from error
    return image if mode == "RGB" else image.convert(mode)


def _check_values(image: Image.Image) -> None:
    """Raise SkipImage for gray of no known range, and for a NaN."""
    if value_range() is None and not gray_bits(image):
        what = "floating-point" if image.mode == "F" else "32-bit or signed"
        raise SkipImage(f"{what} pixels have no known range: give it as --value_range LOW HIGH")
    if image.mode == "F" and np.isnan(np.asarray(image)).any():
        raise SkipImage("some of its pixels are NaN, not a number")


def _mapped(values: NDArray, low: float, high: float) -> NDArray[np.float64]:
    """LOW..HIGH as 0..255, clipped and rounded."""
    share = (np.clip(values.astype(np.float64), low, high) - low) / (high - low)
    return np.rint(255 * share)


def gray_bits(image: Image.Image) -> int:
    """How many bits the values of deep gray have, from 0 up; 0 if their range is not known."""
    if image.mode == "F" or _is_signed8(image):
        return 0
    if image.format == "TIFF":
        return _tag(image, _BITS_PER_SAMPLE, 16) if image.mode != "I" else 0
    # Of others Pillow scales fewer bits to 16. In memory, mode I has 32.
    return 16 if image.mode != "I" or image.format else 0


def depth_of(image: Image.Image) -> str:
    """The `depth` of an opened image of more than 8 bits that can be shown, else "".

    Decodes it where there is no range of values.
    """
    colours = _is_deep_colour(image)
    if not colours and image.mode not in DEEP_GRAY:
        return ""
    if bounds := value_range():
        return "" if colours else f"mapped by {named_range(bounds)}"
    if colours:
        eight = np.asarray(image)[..., :3]  # without alpha
        return depth(8 + int(eight.max()).bit_length(), 16, colours=True)
    bits = gray_bits(image)
    return depth(int(np.asarray(image).max()).bit_length(), bits) if bits else ""


def check_deep_colour(image: Image.Image) -> None:
    """Raise SkipImage for 16-bit colours where there is a range of values.

    image: not decoded yet; of a decoded one Pillow does not tell.
    """
    bounds = value_range()
    if bounds and _is_deep_colour(image):
        raise SkipImage(f"Pillow reads 8 bits of 16-bit colours: {named_range(bounds)} cannot act")


def _is_deep_colour(image: Image.Image) -> bool:
    """Whether Pillow is about to decode 16-bit colours to 8 bits."""
    if image.mode in DEEP_GRAY or not getattr(image, "tile", None):
        return False
    codec, _, _, arguments = image.tile[0]
    rawmode, *others = arguments if isinstance(arguments, tuple) else (arguments,)
    if codec.startswith("ppm"):
        return others[0] > 255
    return ";16" in str(rawmode)
