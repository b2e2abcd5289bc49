"""Conversion of any decoded image to 8 bits per channel, the same for all readers and evaluation.

The rules are those of torchvision's ImageFolder (alpha is dropped, palettes become colours), except
for images of more than 8 bits, which Pillow alone would clip to white or black:

- of 16-bit gray the 8 highest bits are kept, of a 12-bit TIFF the 8 highest of the 12;
- if a TIFF says that zero is white, levels are inverted, as Pillow does for 8 bits;
- floating-point numbers and 32-bit or signed integers have no known range: such an image is bad;
- with --value_range all of these are mapped from LOW..HIGH to 0..255, clipped and rounded. A NaN
  makes an image bad, infinities are clipped;
- Pillow reduces 16-bit colours to 8 bits, so --value_range cannot map them: then they are bad.

Whether an image is bad depends on all of it, never on the part that is used.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fastimae.loaders.image_location import SkipImage
from fastimae.loaders.images.depth import depth
from fastimae.loaders.images.limits import named_range, value_range

Mode = Literal["RGB", "L"]
Box = tuple[int, int, int, int]
"""(left, top, right, bottom) in pixels."""

MODES: dict[int, Mode] = {3: "RGB", 1: "L"}
"""Pillow's mode by number of channels."""
DEEP_GRAY = ("I", "I;16", "I;16L", "I;16B", "I;16N", "F")
_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
"""TIFF tags."""
_WHITE_IS_ZERO, _UNSIGNED, _SIGNED = 0, 1, 2


def eight_bits(image: Image.Image, mode: Mode = "RGB", box: Box | None = None) -> Image.Image:
    """Convert an opened image, or its part in `box`, to a new one with 8 bits per channel.

    Gray is always computed from RGB, as it is from a .beton file. Raises SkipImage if conversion is
    impossible, and anything that Pillow raises for a damaged file.
    """
    check_deep_colour(image)
    bounds, deep = value_range(), image.mode in DEEP_GRAY or _is_signed8(image)
    if deep:
        _check_values(image)
    part = image.crop(box) if box else image.copy()
    part.info.pop("transparency", None)  # alpha is dropped; Pillow may warn about it
    if deep:
        values = _stored(image, np.asarray(part))
        kept = _mapped(values, *bounds) if bounds else values >> (gray_bits(image) - 8)
        white_is_zero = _tag(image, _PHOTOMETRIC, 1) == _WHITE_IS_ZERO
        part = Image.fromarray((255 - kept if white_is_zero else kept).astype(np.uint8))
    return converted(part, mode)


def _tag(image: Image.Image, tag: int, default: int) -> int:
    """Return a TIFF tag of the first channel; `default` if it is missing, or not a TIFF."""
    value = image.tag_v2.get(tag, default) if image.format == "TIFF" else default
    return value[0] if isinstance(value, tuple) else value


def _is_signed8(image: Image.Image) -> bool:
    """Return whether a gray TIFF has numbers from -128 to 127, which Pillow reads as 0 to 255."""
    return image.mode == "L" and _tag(image, _SAMPLE_FORMAT, _UNSIGNED) == _SIGNED


def _stored(image: Image.Image, values: NDArray) -> NDArray:
    """Restore the numbers in the file from the pixels of deep gray: Pillow confuses their signs."""
    if _is_signed8(image):
        return values.view(np.int8)
    unsigned = _tag(image, _SAMPLE_FORMAT, _UNSIGNED) == _UNSIGNED
    is_word = image.format == "TIFF" and _tag(image, _BITS_PER_SAMPLE, 16) == 32
    return values.view(np.uint32) if image.mode == "I" and unsigned and is_word else values


def converted(image: Image.Image, mode: Mode) -> Image.Image:
    """Convert an image with 8 bits per channel to `mode`; return it unchanged if it has it."""
    if image.mode == mode:
        return image
    try:
        image = image if image.mode == "RGB" else image.convert("RGB")
    except ValueError as error:
        raise SkipImage(f"{image.mode} pixels: {error}") from error
    return image if mode == "RGB" else image.convert(mode)


def _check_values(image: Image.Image) -> None:
    """Raise SkipImage for gray without a known range, and for a NaN."""
    if value_range() is None and not gray_bits(image):
        what = "floating-point" if image.mode == "F" else "32-bit or signed"
        raise SkipImage(f"{what} pixels have no known range: give it as --value_range LOW HIGH")
    if image.mode == "F" and np.isnan(np.asarray(image)).any():
        raise SkipImage("some of its pixels are NaN")


def _mapped(values: NDArray, low: float, high: float) -> NDArray[np.float64]:
    """Map LOW..HIGH to 0..255, clipped and rounded."""
    share = (np.clip(values.astype(np.float64), low, high) - low) / (high - low)
    return np.rint(255 * share)


def gray_bits(image: Image.Image) -> int:
    """Return the bits per value of deep gray that starts at 0; 0 if its range is not known."""
    if image.mode == "F" or _is_signed8(image):
        return 0
    if image.format == "TIFF":
        return _tag(image, _BITS_PER_SAMPLE, 16) if image.mode != "I" else 0
    # In other formats Pillow scales fewer bits to 16. In memory, mode I has 32.
    return 16 if image.mode != "I" or image.format else 0


def depth_of(image: Image.Image) -> str:
    """Return the `depth` of an opened image of more than 8 bits that can be used, else "".

    Decodes the image unless there is a range of values.
    """
    colours = is_deep_colour(image)
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
    """Raise SkipImage for 16-bit colours if there is a range of values.

    image: not decoded yet; afterwards Pillow no longer knows.
    """
    bounds = value_range()
    if bounds and is_deep_colour(image):
        raise SkipImage(f"{named_range(bounds)} cannot map 16-bit colours, as Pillow reads 8 bits")


def is_deep_colour(image: Image.Image) -> bool:
    """Return whether Pillow is about to decode 16-bit colours to 8 bits."""
    if image.mode in DEEP_GRAY or not getattr(image, "tile", None):
        return False
    codec, _, _, arguments = image.tile[0]
    rawmode, *others = arguments if isinstance(arguments, tuple) else (arguments,)
    if codec.startswith("ppm"):
        return others[0] > 255
    return ";16" in str(rawmode)
