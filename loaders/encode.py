"""One image file's bytes become one `.beton` sample.

A sound JPEG that any decoder reads alike is passed through untouched, and one that can be made so
without loss is mended. Everything else is decoded to 8-bit RGB and encoded again, by the rules of
torchvision's ImageFolder: the alpha channel is dropped, EXIF orientation is not applied, of an
animation the first frame is taken. Unlike there, 16-bit gray is scaled to 8 bits (pixels.py).
Files are judged by their content, never by their name. docs/data.md tells users of it.
"""

from __future__ import annotations

import dataclasses
import io
import math
import warnings
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from fastimae.loaders import native_library
from fastimae.loaders.items import Item, SkipImage
from fastimae.loaders.jpeg import JpegInfo, read_jpeg_info
from fastimae.loaders.jpeg_mend import mend_jpeg
from fastimae.loaders.limits import ValueRange, limited_to, open_image
from fastimae.loaders.pixels import check_deep_colour, depth_of, eight_bits
from fastimae.loaders.trailer import ROW_START, largest_trailer, make_trailer

PASSED_THROUGH = "passed through"
MENDED = ", mended"
"""How samples end that are the original's coded data between other markers."""
REENCODED = "--reencode"
MAX_JPEG_SIDE = 65500
"""libjpeg encodes no larger sides."""

JPEG_FORMATS = ("JPEG", "MPO")
"""Pillow calls a JPEG file MPO if further pictures follow the first."""
_UNKNOWN = native_library.Inspection(native_library.UNSUPPORTED, None, np.empty(0, ROW_START))


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncodeSettings:
    """How samples are written."""

    mode: Literal["jpg", "raw"] = "jpg"
    max_resolution: int | None = None
    """Cap of the longer side, pixels."""
    jpeg_quality: int = 90
    page_size: int = 8 << 20
    """Cap of a sample with its trailer, bytes."""
    reencode: bool = False
    """Encode what could be passed through, too."""
    max_pixels: int | None = None
    """Larger images are skipped. None: Pillow's limit."""
    value_range: ValueRange | None = None
    """What images of more than 8 bits are mapped from. None: see pixels.py."""


class Encoded(NamedTuple):
    """One sample ready to be written."""

    payload: bytes
    """A JPEG file, or uint8 [height, width, 3]."""
    height: int
    width: int
    mode: Literal["jpg", "raw"]
    how: str
    """`PASSED_THROUGH`, what was mended ("JPEG with stray bytes, mended"), or why it had to be
    encoded: "PNG", "CMYK JPEG", "too large" ..."""
    trailer: bytes
    shrunk: str = ""
    """Why it has fewer pixels than the original; "" if it has not."""
    depth: str = ""
    """Of an original of more than the 8 bits that are kept: see `pixels.depth_of`."""


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
    with limited_to(settings.max_pixels, settings.value_range):
        return _encode(data, settings)


def _encode(data: bytes, settings: EncodeSettings) -> Encoded:
    (image, depth), sound, mended = decode_image(data), None, ""
    if image.format in JPEG_FORMATS:
        data, mended = mend_jpeg(data, image)
        sound = check_jpeg(data)
    cause = _cause(len(data), image, sound and sound.info, settings)
    if sound is None or cause is not None:
        return _fitted(image, settings, cause)._replace(depth=depth)
    how = mended + MENDED if mended else PASSED_THROUGH
    trailer = make_trailer(data, sound.rows, sound.components)
    return Encoded(data, image.height, image.width, "jpg", how, trailer)


class SoundJpeg(NamedTuple):
    """What is known of a JPEG file in which no damage was found."""

    info: JpegInfo
    rows: np.ndarray
    """ROW_START [R], where its rows of MCUs start; empty if that is unknown."""
    components: int
    """Its channels if the native library has decoded all of it, else 0: what a trailer says."""


def check_jpeg(data: bytes) -> SoundJpeg:
    """Look for damage in a JPEG file that Pillow decodes.

    Raises:
        SkipImage: it is damaged. Pillow decodes a file whose second half is another's as if it were
            whole.
    """
    info = read_jpeg_info(data)
    if info is None or not info.complete:
        raise SkipImage("damaged JPEG: no end marker")
    status, problem, rows = _inspect(data) if info.is_common else _UNKNOWN
    if status == native_library.DAMAGED:
        raise SkipImage(f"damaged JPEG: {problem.removeprefix('Corrupt JPEG data: ')}")
    return SoundJpeg(info, rows, info.channels if status == native_library.OK else 0)


def _inspect(data: bytes) -> native_library.Inspection:
    """What the native library, if there is one, has to say of a JPEG file."""
    return _UNKNOWN if native_library.load() is None else native_library.inspect_jpeg(data)


def decode_image(data: bytes) -> tuple[Image.Image, str]:
    """The first frame of an image file, completely decoded, and its depth (`pixels.depth_of`).

    Raises:
        SkipImage: it cannot be decoded, or is over the limit of pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata: all that counts is decoding
            image = open_image(data)
            check_deep_colour(image)
            depth = depth_of(image)
            image.load()
    except SkipImage:
        raise
    # Damaged files make the decoders raise nearly anything.
    except Exception as error:
        raise SkipImage(f"cannot be decoded: {error or type(error).__name__}") from error
    return image, depth


def _cause(
    size: int, image: Image.Image, info: JpegInfo | None, settings: EncodeSettings
) -> str | None:
    """Why an image file of `size` bytes cannot be passed through, or None if it can."""
    if settings.mode == "raw":
        return "raw pixels"
    if info is None:
        return str(image.format)
    if image.mode not in ("RGB", "L"):
        return f"{image.mode} JPEG"
    if not info.all_scans:
        return "JPEG without all its scans"
    if not info.is_plain or image.size != (info.width, info.height):
        return "unusual JPEG"
    if max(image.size) > _max_side(settings)[0]:
        return "too large"
    if size + largest_trailer(image.height) > settings.page_size:
        return "too many bytes"
    return REENCODED if settings.reencode else None


def _max_side(settings: EncodeSettings) -> tuple[int, str]:
    """The longest side that a sample may have, and why."""
    asked = settings.max_resolution
    if asked is not None and asked < MAX_JPEG_SIDE:
        return asked, f"--max_resolution {asked}"
    return MAX_JPEG_SIDE, f"sides of at most {MAX_JPEG_SIDE} pixels"


def _fitted(image: Image.Image, settings: EncodeSettings, cause: str) -> Encoded:
    """Encode an image, smaller where it would exceed the longest side, or its sample a page."""
    side, why = _max_side(settings)
    original, image = image.size, _shrink(eight_bits(image), side)
    payload = _to_bytes(image, settings)
    while (size := len(payload) + largest_trailer(image.height)) > settings.page_size:
        why = f"--page_size {settings.page_size}"
        scale = 0.98 * math.sqrt(settings.page_size / size)
        image = _shrink(image, max(1, int(max(image.size) * scale)))
        payload = _to_bytes(image, settings)
    trailer = _trailer(payload, settings)
    shrunk = why if image.size != original else ""
    return Encoded(payload, image.height, image.width, settings.mode, cause, trailer, shrunk)


def _trailer(payload: bytes, settings: EncodeSettings) -> bytes:
    """The trailer of what was encoded here: of three channels, always."""
    if settings.mode == "raw":
        return make_trailer(payload)
    status, _, rows = _inspect(payload)
    return make_trailer(payload, rows, 3 if status == native_library.OK else 0)


def _shrink(image: Image.Image, max_side: int) -> Image.Image:
    """Cap the longer side, antialiased, keeping the aspect ratio."""
    scale = max_side / max(image.size)
    if scale >= 1:
        return image
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def _to_bytes(image: Image.Image, settings: EncodeSettings) -> bytes:
    if settings.mode == "raw":
        return image.tobytes()
    image.info.clear()  # else comments of the original are written too
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=settings.jpeg_quality)
    return buffer.getvalue()
