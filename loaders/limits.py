"""How many pixels an image may have: one rule, kept by whatever decodes."""

from __future__ import annotations

import contextlib
import functools
import io
import re
import warnings
from collections.abc import Callable, Iterator, Sequence

from PIL import Image

from fastimae.loaders.errors import DataError
from fastimae.loaders.items import SkipImage

_NO_LIMIT = 1 << 62

# What Pillow only warns of is refused here; the warning would say the same again.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class TooManyPixels(SkipImage):
    """An image over the limit."""


def max_pixels() -> int:
    """The largest image that is decoded: Pillow's limit, which --max_pixels sets."""
    limit = Image.MAX_IMAGE_PIXELS
    return _NO_LIMIT if limit is None else limit


def set_max_pixels(limit: int | None) -> None:
    """Set the limit of this process; None: leave it. Raises DataError for less than 1."""
    if limit is None:
        return
    if limit < 1:
        raise DataError(f"--max_pixels must be at least 1, not {limit}")
    Image.MAX_IMAGE_PIXELS = limit


@contextlib.contextmanager
def limited_to(limit: int | None) -> Iterator[None]:
    """Inside, `limit` holds in this process; None: what held before."""
    before = Image.MAX_IMAGE_PIXELS
    set_max_pixels(limit)
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def for_data_loader() -> Callable[[int], None]:
    """A `worker_init_fn` that sets this process's limit in the workers, also where these are not
    forked."""
    return functools.partial(_set_in_worker, max_pixels())


def _set_in_worker(limit: int, _worker: int) -> None:
    set_max_pixels(limit)


def too_many(pixels: int) -> str:
    """What is said of an image over the limit."""
    return f"{pixels} pixels, over --max_pixels {max_pixels()}"


def check_pixels(width: int, height: int) -> None:
    """Raise TooManyPixels if an image of this size may not be decoded."""
    if width * height > max_pixels():
        raise TooManyPixels(too_many(width * height))


def open_image(data: bytes | memoryview, formats: Sequence[str] | None = None) -> Image.Image:
    """An image file's bytes for Pillow, which decodes them when it has to.

    formats: those to try; None: all. Raises TooManyPixels, or what Pillow raises.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=formats)
    except Image.DecompressionBombError as error:  # over twice the limit
        raise TooManyPixels(too_many(int(re.findall(r"\d+", str(error))[0]))) from error
    check_pixels(*image.size)
    return image
