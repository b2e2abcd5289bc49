"""One image file's bytes become one `.beton` sample.

A JPEG that any decoder reads is passed through untouched. Everything else is decoded to 8-bit RGB
and encoded again, by the rules of torchvision's ImageFolder: the alpha channel is dropped, EXIF
orientation is not applied, of an animation the first frame is taken. Unlike there, 16-bit gray is
scaled to 8 bits, not clipped. Files are judged by their content, never by their name.
"""

from __future__ import annotations

import dataclasses
import io
import math
import warnings
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from fastimae.loaders.items import Item, SkipImage
from fastimae.loaders.jpeg import read_jpeg_info

PASSED_THROUGH = "passed through"
MAX_JPEG_SIDE = 65500
"""libjpeg encodes no larger sides."""

Image.init()  # registers the formats
# Named, because Pillow would start Ghostscript for an EPS file.
_WANTED = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF")
_FORMATS = tuple(name for name in _WANTED if name in Image.OPEN)
_JPEG_FORMATS = ("JPEG", "MPO")
"""Pillow calls a JPEG file MPO if further pictures follow the first."""
_SIXTEEN_BIT_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncodeSettings:
    """How samples are written."""

    mode: Literal["jpg", "raw"] = "jpg"
    max_resolution: int | None = None
    """Cap of the longer side, pixels."""
    jpeg_quality: int = 90
    page_size: int = 8 << 20
    """Cap of a sample, bytes."""


class Encoded(NamedTuple):
    """One sample ready to be written."""

    payload: bytes
    """A JPEG file, or uint8 [height, width, 3]."""
    height: int
    width: int
    mode: Literal["jpg", "raw"]
    how: str
    """`PASSED_THROUGH`, or why it had to be encoded: "PNG", "CMYK JPEG", "too large" ..."""


def encode_item(item: Item, settings: EncodeSettings) -> Encoded | str:
    """The sample of one image, or the reason why there is none. Raises nothing."""
    try:
        return encode(item.read(), settings)
    except SkipImage as reason:
        return str(reason)
    except MemoryError:
        return "not enough memory"


def encode(data: bytes, settings: EncodeSettings) -> Encoded:
    """Make a sample of an image file's bytes.

    Raises:
        SkipImage: not an image, damaged, or too large to be decoded safely.
    """
    image = _decode(data)
    cause = _cause(data, image, settings)
    if cause is None:
        return Encoded(data, image.height, image.width, "jpg", PASSED_THROUGH)
    return _fit_page(_shrink(_to_rgb(image), _max_side(settings)), settings, cause)


def check_sample(sample: tuple[Item, int, int, bool]) -> str | None:
    """What is wrong with a written sample, or None. Decodes it completely.

    sample: its bytes, height, width, and whether it is a JPEG (else raw pixels).
    """
    item, height, width, is_jpeg = sample
    try:
        data = item.read()
        if not is_jpeg:
            return None
        image = _decode(data)
    except SkipImage as reason:
        return str(reason)
    if image.format not in _JPEG_FORMATS or image.size != (width, height):
        return f"a {image.format} of {image.height} x {image.width}, not {height} x {width} JPEG"
    return None


def _decode(data: bytes) -> Image.Image:
    """The first frame, completely decoded."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # large, or odd metadata: all that counts is decoding
            image = Image.open(io.BytesIO(data), formats=_FORMATS)
            image.load()
    except Image.UnidentifiedImageError:
        raise SkipImage("not an image, or of an unknown format") from None
    # Damaged files make the decoders raise nearly anything.
    except Exception as error:
        raise SkipImage(f"cannot be decoded: {error or type(error).__name__}") from error
    return image


def _cause(data: bytes, image: Image.Image, settings: EncodeSettings) -> str | None:
    """Why an image cannot be passed through, or None if it can."""
    if settings.mode == "raw":
        return "raw pixels"
    if image.format not in _JPEG_FORMATS:
        return str(image.format)
    info = read_jpeg_info(data)
    if info is None or not info.complete:
        # Pillow decodes a file whose second half was never written as if it were whole.
        raise SkipImage("damaged JPEG: no end marker")
    if image.mode not in ("RGB", "L"):
        return f"{image.mode} JPEG"
    if not info.is_plain or image.size != (info.width, info.height):
        return "unusual JPEG"
    if max(image.size) > _max_side(settings):
        return "too large"
    return "too many bytes" if len(data) > settings.page_size else None


def _max_side(settings: EncodeSettings) -> int:
    return min(settings.max_resolution or MAX_JPEG_SIDE, MAX_JPEG_SIDE)


def _to_rgb(image: Image.Image) -> Image.Image:
    try:
        if image.mode in _SIXTEEN_BIT_MODES:
            image = _to_8_bits(image)
        elif image.mode == "F":
            raise SkipImage("floating-point pixels have no known range")
        return image.convert("RGB")
    except ValueError as error:
        raise SkipImage(f"{image.mode} pixels: {error}") from error


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Keep the high byte of 16-bit gray."""
    pixels = np.asarray(image)
    if pixels.min() < 0 or pixels.max() > 0xFFFF:
        raise SkipImage("32-bit pixels have no known range")
    return Image.fromarray((pixels >> 8).astype(np.uint8))


def _shrink(image: Image.Image, max_side: int) -> Image.Image:
    """Cap the longer side, antialiased, keeping the aspect ratio."""
    scale = max_side / max(image.size)
    if scale >= 1:
        return image
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def _fit_page(image: Image.Image, settings: EncodeSettings, cause: str) -> Encoded:
    """Encode, with a smaller image where the sample would not fit a page."""
    payload = _to_bytes(image, settings)
    while len(payload) > settings.page_size:
        scale = 0.98 * math.sqrt(settings.page_size / len(payload))
        image = _shrink(image, max(1, int(max(image.size) * scale)))
        payload = _to_bytes(image, settings)
    return Encoded(payload, image.height, image.width, settings.mode, cause)


def _to_bytes(image: Image.Image, settings: EncodeSettings) -> bytes:
    if settings.mode == "raw":
        return image.tobytes()
    image.info.clear()  # else comments of the original are written too
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=settings.jpeg_quality)
    return buffer.getvalue()
