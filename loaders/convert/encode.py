"""Conversion of one image file's bytes to one `.beton` sample.

An intact JPEG that all decoders read alike is passed through untouched, and one that can be made so
without loss is repaired. Everything else is decoded to 8-bit RGB and encoded again, by the rules of
torchvision's ImageFolder: the alpha channel is dropped, EXIF orientation is not applied, and an
animation yields its first frame. Unlike there, 16-bit gray is scaled to 8 bits (pixels.py).
Files are judged by their content, never by their name. docs/data.md explains this to users.
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
from fastimae.loaders.beton.layout import DEFAULT_MODE, DEFAULT_PAGE_SIZE
from fastimae.loaders.beton.sample import BetonSample
from fastimae.loaders.beton.trailer import ROW_START, largest_trailer, make_trailer
from fastimae.loaders.image_location import ImageLocation, SkipImage
from fastimae.loaders.images.band_files import KEPT_BITS, open_any
from fastimae.loaders.images.bands import AnyImage, BandImage, check_form, resized
from fastimae.loaders.images.jpeg import JpegInfo, read_jpeg_info
from fastimae.loaders.images.jpeg_repair import repair_jpeg
from fastimae.loaders.images.limits import ValueRange, limited_to, open_image
from fastimae.loaders.images.pixel_form import RGB8, PixelForm
from fastimae.loaders.images.pixels import check_deep_colour, depth_of, eight_bits

PASSED_THROUGH = "passed through"
REPAIRED = ", mended"
"""Suffix of `BetonSample.how` for the original's coded data between other markers; it is
part of the manifest's format, so it stays."""
REENCODED = "--reencode"
MAX_JPEG_SIDE = 65500
"""Largest side that libjpeg encodes."""

JPEG_FORMATS = ("JPEG", "MPO")
"""Pillow calls a JPEG file MPO if more images follow the first."""
_UNKNOWN = native_library.Inspection(native_library.UNSUPPORTED, None, np.empty(0, ROW_START))


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncodeSettings:
    """How samples are written."""

    mode: Literal["jpg", "raw"] = DEFAULT_MODE
    max_resolution: int | None = None
    """Upper limit of the longer side, pixels."""
    jpeg_quality: int = 90
    page_size: int = DEFAULT_PAGE_SIZE
    """Upper limit of a sample with its trailer, bytes."""
    reencode: bool = False
    """Encode even what could be passed through."""
    max_pixels: int | None = None
    """Larger images are skipped. None: Pillow's limit."""
    value_range: ValueRange | None = None
    """Values of images of more than 8 bits that become 0 and 255. None: see pixels.py."""
    depth: Literal[8, 16] = KEPT_BITS
    """Bits of a value that are kept of images of 16."""
    in_chans: int | None = None
    """Channels of arrays and TIFFs. None: as many as they have."""
    form: PixelForm = RGB8
    """That of all images of the file; others are skipped."""


def encode_item(item: ImageLocation, settings: EncodeSettings) -> BetonSample | str:
    """Make the sample of an image, or return the reason why there is none. Never raises."""
    try:
        return encode(item.read(), settings)
    except SkipImage as reason:
        return str(reason)
    except MemoryError:
        return "not enough memory"


def encode(data: bytes, settings: EncodeSettings) -> BetonSample:
    """Make a sample of an image file's bytes.

    Raises:
        SkipImage: it is not an image, damaged, or too large to be decoded safely.
    """
    with limited_to(settings.max_pixels, settings.value_range):
        return _encode(data, settings)


def _encode(data: bytes, settings: EncodeSettings) -> BetonSample:
    (image, depth), intact, faults = decode_image(data, settings), None, ""
    check_form(image, settings.form)
    if isinstance(image, BandImage):
        return _encode_to_fit(image, settings, f"{image.form} pixels")
    if image.format in JPEG_FORMATS:
        data, faults = repair_jpeg(data, image)
        intact = check_jpeg(data)
    cause = _cause(len(data), image, intact and intact.info, settings)
    if intact is None or cause is not None:
        return _encode_to_fit(image, settings, cause)._replace(depth=depth)
    how = faults + REPAIRED if faults else PASSED_THROUGH
    trailer = make_trailer(data, intact.rows, intact.components)
    return BetonSample(data, image.height, image.width, "jpg", how, trailer)


class IntactJpeg(NamedTuple):
    """A JPEG file in which no damage was found."""

    info: JpegInfo
    rows: np.ndarray
    """ROW_START [R], the starts of its rows of MCUs; empty if unknown."""
    components: int
    """Its channels if the native library has decoded all of it, else 0; stored in the trailer."""


def check_jpeg(data: bytes) -> IntactJpeg:
    """Look for damage in a JPEG file that Pillow decodes.

    Raises:
        SkipImage: it is damaged. Pillow alone would decode a file whose second half belongs to
            another file as if it were intact.
    """
    info = read_jpeg_info(data)
    if info is None or not info.complete:
        raise SkipImage("damaged JPEG: no end marker")
    status, problem, rows = _inspect(data) if info.is_common else _UNKNOWN
    if status == native_library.DAMAGED:
        raise SkipImage(f"damaged JPEG: {problem.removeprefix('Corrupt JPEG data: ')}")
    return IntactJpeg(info, rows, info.channels if status == native_library.OK else 0)


def _inspect(data: bytes) -> native_library.Inspection:
    """Inspect a JPEG file with the native library, if it is built."""
    return _UNKNOWN if native_library.load() is None else native_library.inspect_jpeg(data)


def open_as_asked(item: ImageLocation, settings: EncodeSettings) -> AnyImage:
    """Open an image, not decoded yet. Raises SkipImage, and what Pillow raises."""
    with limited_to(settings.max_pixels, settings.value_range):
        return open_any(item.read(), settings.in_chans, settings.depth)


def decode_image(data: bytes, settings: EncodeSettings | None = None) -> tuple[AnyImage, str]:
    """Decode the first frame of an image file, and return it with its depth (`pixels.depth_of`).

    settings: which channels and bits; None: ordinary images alone.

    Raises:
        SkipImage: it cannot be decoded, or is over the pixel limit.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd metadata: only decoding matters
            image = (
                open_any(data, settings.in_chans, settings.depth) if settings else open_image(data)
            )
            check_deep_colour(image)
            depth = depth_of(image)
            image.load()
    except SkipImage:
        raise
    # Damaged files make the decoders raise almost anything.
    except Exception as error:
        raise SkipImage(f"cannot be decoded: {error or type(error).__name__}") from error
    return image, depth


def _cause(
    size: int, image: Image.Image, info: JpegInfo | None, settings: EncodeSettings
) -> str | None:
    """Say why an image file of `size` bytes cannot be passed through; None if it can."""
    if settings.mode == "raw":
        return "raw pixels"
    if info is None:
        return str(image.format or "array")
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
    """Return the longest side that a sample may have, and the reason."""
    asked = settings.max_resolution
    if asked is not None and asked < MAX_JPEG_SIDE:
        return asked, f"--max_resolution {asked}"
    return MAX_JPEG_SIDE, f"sides of at most {MAX_JPEG_SIDE} pixels"


def _encode_to_fit(image: AnyImage, settings: EncodeSettings, cause: str) -> BetonSample:
    """Encode an image, shrunk as far as needed to fit the longest side and a page."""
    side, why = _max_side(settings)
    original = image.size
    image = _shrink(image if isinstance(image, BandImage) else eight_bits(image), side)
    payload = _to_bytes(image, settings)
    while (size := len(payload) + largest_trailer(image.height)) > settings.page_size:
        why = f"--page_size {settings.page_size}"
        scale = 0.98 * math.sqrt(settings.page_size / size)
        image = _shrink(image, max(1, int(max(image.size) * scale)))
        payload = _to_bytes(image, settings)
    trailer = _trailer(payload, settings)
    shrunk = why if image.size != original else ""
    return BetonSample(payload, image.height, image.width, settings.mode, cause, trailer, shrunk)


def _trailer(payload: bytes, settings: EncodeSettings) -> bytes:
    """Make the trailer of a payload that was encoded here, so always with three channels."""
    if settings.mode == "raw":
        return make_trailer(payload)
    status, _, rows = _inspect(payload)
    return make_trailer(payload, rows, 3 if status == native_library.OK else 0)


def _shrink(image: AnyImage, max_side: int) -> AnyImage:
    """Limit the longer side, antialiased, keeping the aspect ratio."""
    scale = max_side / max(image.size)
    if scale >= 1:
        return image
    width, height = (max(1, round(side * scale)) for side in image.size)
    return resized(image, (width, height))


def _to_bytes(image: AnyImage, settings: EncodeSettings) -> bytes:
    if settings.mode == "raw":
        return image.tobytes()
    image.info.clear()  # else the original's comments would be written too
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=settings.jpeg_quality)
    return buffer.getvalue()
