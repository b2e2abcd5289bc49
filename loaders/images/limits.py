"""Process-wide rules for reading images: the pixel limit, the formats and the range of values.

They are global, as Pillow's own limit is, so that no reader can miss them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import logging
import math
import re
import warnings
from collections.abc import Callable, Iterator, Sequence

from PIL import Image

from fastimae.loaders.errors import SettingError
from fastimae.loaders.image_location import SkipImage
from fastimae.loaders.images.formats import unsupported, unsupported_format
from fastimae.settings import Expert, PositiveInt, Settings

_NO_LIMIT = 1 << 62

ValueRange = tuple[float, float]
"""(LOW, HIGH): the values that become 0 and 255."""
_range: ValueRange | None = None

Image.init()  # registers the formats
# A TIFF with too many channels for Pillow is read with tifffile: no line on each is due.
logging.getLogger("PIL.TiffImagePlugin").addHandler(logging.NullHandler())
# An explicit list, because Pillow would start Ghostscript for an EPS file, whatever its name.
_WANTED = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF")
FORMATS = tuple(name for name in _WANTED if name in Image.OPEN)
"""Pillow's names of the formats that every reader supports; the content decides, not the name."""

# Images that Pillow only warns about are refused here, so the warning would be a duplicate.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


@dataclasses.dataclass(kw_only=True)
class LimitSettings(Settings):
    """Limits on the images that are read, and the mapping of their values."""

    error = SettingError

    max_pixels: Expert[PositiveInt | None] = None
    """Largest image in pixels; larger ones count as unreadable. A worker needs 4 bytes per pixel.
    None: Pillow's limit, 89 million."""
    value_range: Expert[tuple[float, float] | None] = None
    """LOW HIGH: values that become 0 and 255, in images of more than 8 bits. None: scale 16 bits;
    float and 32-bit images are unreadable."""

    def check(self) -> None:
        """Check the fields, see `Settings`."""
        super().check()
        if self.value_range is not None:
            check_value_range(self.value_range)

    def apply(self) -> None:
        """Set limit and range for this process; without a pixel limit, the previous one stays."""
        set_max_pixels(self.max_pixels)
        set_value_range(self.value_range)


class TooManyPixels(SkipImage):
    """The image has more pixels than allowed."""


def max_pixels() -> int:
    """Return the pixel limit of this process: Pillow's, which --max_pixels sets."""
    limit = Image.MAX_IMAGE_PIXELS
    return _NO_LIMIT if limit is None else limit


def set_max_pixels(limit: int | None) -> None:
    """Set the pixel limit of this process; None: keep it. Raises DataError below 1."""
    LimitSettings(max_pixels=limit).check()
    if limit is not None:
        Image.MAX_IMAGE_PIXELS = limit


def value_range() -> ValueRange | None:
    """Return the range of values of this process, which --value_range sets."""
    return _range


def set_value_range(bounds: ValueRange | None) -> None:
    """Set the range of this process; None: no range. Raises DataError unless LOW < HIGH."""
    global _range
    if bounds is not None:
        check_value_range(bounds)
        bounds = float(bounds[0]), float(bounds[1])
    _range = bounds


def check_value_range(bounds: ValueRange) -> None:
    """Raise SettingError unless LOW is below HIGH."""
    low, high = bounds
    if not (low < high and math.isfinite(high - low)):
        raise SettingError(f"{named_range(bounds)}: LOW must be below HIGH, and both finite")


def named_range(bounds: ValueRange) -> str:
    """Spell out the flag that sets this range."""
    return f"--value_range {bounds[0]:.12g} {bounds[1]:.12g}"


@contextlib.contextmanager
def limited_to(limit: int | None, bounds: ValueRange | None = None) -> Iterator[None]:
    """Apply a pixel limit (None: keep it) and a range of values (None: no range) inside the block.

    They hold for the entire process.
    """
    before = Image.MAX_IMAGE_PIXELS, _range
    set_max_pixels(limit)
    set_value_range(bounds)
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before[0]
        set_value_range(before[1])


def limits_for_workers() -> Callable[[int], None]:
    """Make a `worker_init_fn` that applies this process's limits in workers, forked or not."""
    return functools.partial(_set_in_worker, max_pixels(), value_range())


def _set_in_worker(limit: int, bounds: ValueRange | None, _worker: int) -> None:
    set_max_pixels(limit)
    set_value_range(bounds)


def too_many(pixels: int) -> str:
    """Make the reason for leaving out an image over the limit."""
    return f"{pixels} pixels, over --max_pixels {max_pixels()}"


def check_pixels(width: int, height: int) -> None:
    """Raise TooManyPixels if an image of this size is over the limit."""
    if width * height > max_pixels():
        raise TooManyPixels(too_many(width * height))


def open_image(data: bytes | memoryview, formats: Sequence[str] = FORMATS) -> Image.Image:
    """Open an image file's bytes with Pillow, which decodes them later.

    formats: those to try. Raises SkipImage for an image of another format or over the limit, and
    anything that Pillow raises.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=formats)
    except Image.DecompressionBombError as error:  # over twice the limit
        raise TooManyPixels(too_many(int(re.findall(r"\d+", str(error))[0]))) from error
    except Image.UnidentifiedImageError:
        name = unsupported_format(data)
        reason = unsupported(name) if name else "not an image, or of an unknown format"
        raise SkipImage(reason) from None
    check_pixels(*image.size)
    return image
