"""From bytes to a crop with Pillow: the exact path that every other decoder is measured by.

The result is bit-equal to `torchvision.transforms.functional.resized_crop` (bicubic, antialiased)
of the PIL image for the same window. torchvision's tensor path rounds elsewhere and differs by 1
or 2 of 255 on some pixels. JPEG draft mode (decoding at a fraction of the size) would be faster
and is not used: it gives another picture.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fastimae.loaders.crops import Crops
from fastimae.loaders.items import SkipImage
from fastimae.loaders.pixels import MODES, eight_bits

OpenImage = Callable[[int], Image.Image]
"""Opens one sample by its index; its pixels may be decoded later. Raises if it is broken, or has
more of them than may be decoded (limits.py)."""

Failures = dict[int, str]
"""Row of a batch -> why its sample cannot be shown."""

DecodeRows = Callable[[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint8]], Failures]
"""Writes the crops of some samples: `decode_rows` of a given opener and crops, or its like."""


def crop_and_resize(
    image: Image.Image, window: Sequence[int], flip: bool, crops: Crops
) -> NDArray[np.uint8]:
    """The window (top, left, height, width) of `image` as uint8 [H, W, C], mirrored if `flip`."""
    top, left, height, width = window
    box = left, top, left + width, top + height
    part = eight_bits(image, MODES[crops.channels], box)
    part = part.resize(crops.size[::-1], Image.Resampling.BICUBIC)
    pixels = np.asarray(part).reshape(crops.shape)
    return pixels[:, ::-1] if flip else pixels


def decode_rows(
    open_image: OpenImage,
    crops: Crops,
    index: NDArray[np.int64],
    key: NDArray[np.int64],
    out: NDArray[np.uint8],
) -> Failures:
    """Write the crop of sample `index[i]` drawn from `key[i]` to `out[i]`, for each of n rows.

    index, key: int64 [n]; out: uint8 [n, H, W, C], undefined where a sample failed.
    """
    failures: Failures = {}
    images: list[Image.Image | None] = [None] * len(index)
    sizes = np.ones((len(index), 2), dtype=np.int64)
    for row, i in enumerate(index.tolist()):
        with _recording(failures, row):
            images[row] = open_image(i)
            sizes[row] = images[row].size
    windows, flips = crops.draw(key, heights=sizes[:, 1], widths=sizes[:, 0])
    for row, window in enumerate(windows.tolist()):
        # Taken out of the list so that one decoded image is in memory at a time.
        image, images[row] = images[row], None
        if image is not None:
            with _recording(failures, row):
                out[row] = crop_and_resize(image, window, flips[row], crops)
    return failures


def replace_failures(
    open_image: OpenImage,
    crops: Crops,
    index: NDArray[np.int64],
    key: NDArray[np.int64],
    out: NDArray[np.uint8],
    failures: Failures,
) -> NDArray[np.int64]:
    """Fill the rows that failed with the next good sample of the batch, cropped by the row's key.

    index, key: int64 [B]; out: uint8 [B, H, W, C]; see `decode_stand_ins`. Returns int64 [B], the
    sample shown in each row: `index` itself where nothing failed, or everything.
    """
    decode = functools.partial(decode_rows, open_image, crops)
    shown, rows, pixels = decode_stand_ins(decode, crops, index, key, failures)
    out[rows] = pixels
    return shown


def decode_stand_ins(
    decode: DecodeRows,
    crops: Crops,
    index: NDArray[np.int64],
    key: NDArray[np.int64],
    failures: Failures,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint8]]:
    """What is shown in place of the samples that failed in one of their rows: in all of them.

    index, key: int64 [B]. A sample that fails only now is added to `failures`: another decoder, or
    another window, may have shown a part of it that is whole.
    Returns the sample shown in each row, int64 [B], the rows where that is another one, [n], and
    their crops, uint8 [n, H, W, C].
    """
    if not failures:
        return index, np.empty(0, np.int64), np.empty((0, *crops.shape), np.uint8)
    while True:
        failures |= all_copies(index, failures)
        shown = index[stand_ins(len(index), failures)]
        rows = np.flatnonzero(shown != index)
        pixels = np.empty((len(rows), *crops.shape), dtype=np.uint8)
        again = decode(shown[rows], key[rows], pixels)
        if not again:
            return shown, rows, pixels
        for row, reason in again.items():
            failures[int(np.flatnonzero(index == shown[rows[row]])[0])] = reason


def all_copies(index: NDArray[np.int64], failures: Failures) -> Failures:
    """`failures` of all rows of the samples that failed in one; index: int64 [B].

    A decoder may see the damage in one crop of a sample and not in another.
    """
    reasons = {int(index[row]): reason for row, reason in failures.items()}
    if not reasons:
        return failures
    return {row: reasons[i] for row, i in enumerate(index.tolist()) if i in reasons}


def stand_ins(count: int, failures: Failures) -> NDArray[np.int64]:
    """For each of `count` rows the row whose sample it shows: itself, or the next good one.

    Returns int64 [count]; where no row is good, each stands for itself.
    """
    good = np.setdiff1d(np.arange(count), list(failures))
    if not len(good):
        return np.arange(count)
    return good[np.searchsorted(good, np.arange(count)) % len(good)]


def reason_for(error: Exception) -> str:
    """What is said of an image that cannot be shown; Pillow raises a dozen types."""
    if isinstance(error, SkipImage):
        return str(error)
    return " ".join(f"{type(error).__name__}: {error}".split())


@contextlib.contextmanager
def errors_skip() -> Iterator[None]:
    """Turn any error inside the block into a SkipImage that says why."""
    try:
        yield
    except Exception as error:
        raise SkipImage(reason_for(error)) from error


@contextlib.contextmanager
def _recording(failures: Failures, row: int) -> Iterator[None]:
    """Turn any error inside the block into a failure of `row`."""
    try:
        yield
    except Exception as error:
        failures[row] = reason_for(error)
