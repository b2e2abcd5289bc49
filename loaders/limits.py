"""What holds for every image that a process reads: how many pixels it may have, which formats are
read, and the range of values that images of more than 8 bits are mapped from."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import math
import re
import warnings
from collections.abc import Callable, Iterator, Sequence

from PIL import Image

from fastimae.loaders.errors import SettingError
from fastimae.loaders.image_formats import foreign_format, unread
from fastimae.loaders.items import SkipImage
from fastimae.settings import PositiveInt, Settings

_NO_LIMIT = 1 << 62

ValueRange = tuple[float, float]
"""(LOW, HIGH): the values that become 0 and 255."""
_range: ValueRange | None = None

Image.init()  # registers the formats
# Named, because Pillow would start Ghostscript for an EPS file, whatever that is called.
_WANTED = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF")
FORMATS = tuple(name for name in _WANTED if name in Image.OPEN)
"""Those that every reader takes, by content."""

# What Pillow only warns of is refused here; the warning would say the same again.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


@dataclasses.dataclass(kw_only=True)
class LimitSettings(Settings):
    """Which images can be read, and how their values are."""

    error = SettingError

    max_pixels: PositiveInt | None = None
    """Larger images count as unreadable: 4 bytes a pixel and worker. None: Pillow's 89 million."""
    value_range: tuple[float, float] | None = None
    """LOW HIGH, of images of more than 8 bits: what becomes 0 and 255. None: 16 bits are scaled,
    floating-point and 32-bit images count as unreadable."""

    def check(self) -> None:
        """As of `Settings`."""
        super().check()
        if self.value_range is not None:
            check_value_range(self.value_range)

    def apply(self) -> None:
        """Have them hold in this process; without a limit of pixels, the one before stays."""
        set_max_pixels(self.max_pixels)
        set_value_range(self.value_range)


class TooManyPixels(SkipImage):
    """An image over the limit."""


def max_pixels() -> int:
    """The largest image that is decoded: Pillow's limit, which --max_pixels sets."""
    limit = Image.MAX_IMAGE_PIXELS
    return _NO_LIMIT if limit is None else limit


def set_max_pixels(limit: int | None) -> None:
    """Set the limit of this process; None: leave it. Raises DataError for less than 1."""
    LimitSettings(max_pixels=limit).check()
    if limit is not None:
        Image.MAX_IMAGE_PIXELS = limit


def value_range() -> ValueRange | None:
    """What --value_range says in this process."""
    return _range


def set_value_range(bounds: ValueRange | None) -> None:
    """Set the range of this process; None: there is none. Raises DataError for one that is none."""
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
    """The flag that sets this range."""
    return f"--value_range {bounds[0]:.12g} {bounds[1]:.12g}"


@contextlib.contextmanager
def limited_to(limit: int | None, bounds: ValueRange | None = None) -> Iterator[None]:
    """Inside, `limit` pixels (None: as many as before) and a range of values (None: no range) hold
    in this process."""
    before = Image.MAX_IMAGE_PIXELS, _range
    set_max_pixels(limit)
    set_value_range(bounds)
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before[0]
        set_value_range(before[1])


def for_data_loader() -> Callable[[int], None]:
    """A `worker_init_fn` that makes what holds in this process hold in the workers, also where
    these are not forked."""
    return functools.partial(_set_in_worker, max_pixels(), value_range())


def _set_in_worker(limit: int, bounds: ValueRange | None, _worker: int) -> None:
    set_max_pixels(limit)
    set_value_range(bounds)


def too_many(pixels: int) -> str:
    """What is said of an image over the limit."""
    return f"{pixels} pixels, over --max_pixels {max_pixels()}"


def check_pixels(width: int, height: int) -> None:
    """Raise TooManyPixels if an image of this size may not be decoded."""
    if width * height > max_pixels():
        raise TooManyPixels(too_many(width * height))


def open_image(data: bytes | memoryview, formats: Sequence[str] = FORMATS) -> Image.Image:
    """An image file's bytes for Pillow, which decodes them when it has to.

    formats: those to try. Raises SkipImage for no image of these and for one over the limit, or
    what Pillow raises.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=formats)
    except Image.DecompressionBombError as error:  # over twice the limit
        raise TooManyPixels(too_many(int(re.findall(r"\d+", str(error))[0]))) from error
    except Image.UnidentifiedImageError:
        foreign = foreign_format(data)
        reason = unread(foreign) if foreign else "not an image, or of an unknown format"
        raise SkipImage(reason) from None
    check_pixels(*image.size)
    return image
