"""Decodes bytes to crops with Pillow, the reference for all decoders; replaces bad samples.

The result is bit-equal to `torchvision.transforms.functional.resized_crop` (bicubic, antialiased)
of the PIL image for the same window, as Pillow 13 and newer compute it (resize.py). torchvision's
tensor path rounds at other points and differs by 1 or 2 of 255 on some pixels. JPEG draft mode
(decoding at a fraction of the size) would be faster but is not used, because it changes the pixels.

B = rows of a batch, n = some of them; H, W, C = rows, columns, channels of a crop.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from fastimae.loaders.image_location import SkipImage
from fastimae.loaders.images.bands import AnyImage, BandImage, check_form
from fastimae.loaders.images.crops import Crops
from fastimae.loaders.images.pixels import MODES, eight_bits
from fastimae.loaders.images.resize import resize

Pixels = NDArray[np.uint8 | np.uint16]
"""Of the type of the data set's images (`Crops.dtype`)."""

OpenImage = Callable[[int], AnyImage]
"""Opens a sample by its index; its pixels may be decoded later. Raises if it is broken or has more
pixels than allowed (limits.py)."""

Failures = dict[int, str]
"""Row of a batch -> why its sample cannot be used."""

DecodeRows = Callable[[NDArray[np.int64], NDArray[np.int64], Pixels], Failures]
"""Writes the crops of some samples: `decode_rows` with opener and crops bound, or an equivalent."""


def crop_and_resize(image: AnyImage, window: Sequence[int], flip: bool, crops: Crops) -> Pixels:
    """Crop the window (top, left, height, width) as [H, W, C], mirrored if `flip`.

    Raises SkipImage if the image does not have the form of the crops.
    """
    top, left, height, width = window
    box = left, top, left + width, top + height
    if isinstance(image, BandImage) or not crops.of_ordinary:
        check_form(image, crops.form)
        pixels = image.crop(box).resize(crops.size[::-1]).pixels_HWC
    else:
        part = eight_bits(image, MODES[crops.channels], box)
        pixels = np.asarray(resize(part, crops.size[::-1])).reshape(crops.shape)
    return pixels[:, ::-1] if flip else pixels


def decode_rows(
    open_image: OpenImage,
    crops: Crops,
    index: NDArray[np.int64],
    key: NDArray[np.int64],
    out: Pixels,
) -> Failures:
    """Write the crop of sample `index[i]` drawn from `key[i]` to `out[i]`, for each of n rows.

    index, key: int64 [n]; out: [n, H, W, C], undefined where a sample failed.
    """
    failures: Failures = {}
    images: list[AnyImage | None] = [None] * len(index)
    sizes = np.ones((len(index), 2), dtype=np.int64)
    for row, i in enumerate(index.tolist()):
        with _recording(failures, row):
            images[row] = open_image(i)
            sizes[row] = images[row].size
    windows, flips = crops.draw(key, heights=sizes[:, 1], widths=sizes[:, 0])
    for row, window in enumerate(windows.tolist()):
        # Removed from the list, so that only one decoded image is in memory at a time.
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
    out: Pixels,
    failures: Failures,
) -> NDArray[np.int64]:
    """Fill the rows that failed with the next good sample of the batch, cropped by the row's key.

    index, key: int64 [B]; out: [B, H, W, C]; see `decode_replacements`. Returns int64 [B],
    the sample now in each row: `index` itself if nothing failed, or everything.
    """
    decode = functools.partial(decode_rows, open_image, crops)
    used, rows, pixels = decode_replacements(decode, crops, index, key, failures)
    out[rows] = pixels
    return used


def decode_replacements(
    decode: DecodeRows,
    crops: Crops,
    index: NDArray[np.int64],
    key: NDArray[np.int64],
    failures: Failures,
) -> tuple[NDArray[np.int64], NDArray[np.int64], Pixels]:
    """Decode replacements for samples that failed in any of their rows, for all of these rows.

    index, key: int64 [B]. A sample that fails only now is added to `failures`: its earlier crop may
    come from another decoder, or from an intact part of it.
    Returns the sample now in each row, int64 [B], the rows where it was replaced, [n], and their
    crops, [n, H, W, C].
    """
    if not failures:
        return index, np.empty(0, np.int64), crops.empty(0)
    while True:
        failures |= all_copies(index, failures)
        used = index[replacement_rows(len(index), failures)]
        rows = np.flatnonzero(used != index)
        pixels = crops.empty(len(rows))
        again = decode(used[rows], key[rows], pixels)
        if not again:
            return used, rows, pixels
        for row, reason in again.items():
            failures[int(np.flatnonzero(index == used[rows[row]])[0])] = reason


def all_copies(index: NDArray[np.int64], failures: Failures) -> Failures:
    """Extend `failures` to all rows of the samples that failed in any; index: int64 [B].

    A decoder may notice the damage in one crop of a sample but not in another.
    """
    reasons = {int(index[row]): reason for row, reason in failures.items()}
    if not reasons:
        return failures
    return {row: reasons[i] for row, i in enumerate(index.tolist()) if i in reasons}


def replacement_rows(count: int, failures: Failures) -> NDArray[np.int64]:
    """Return for each of `count` rows the row whose sample it gets: itself, or the next good one.

    Returns int64 [count]; if no row is good, each keeps its own.
    """
    good = np.setdiff1d(np.arange(count), list(failures))
    if not len(good):
        return np.arange(count)
    return good[np.searchsorted(good, np.arange(count)) % len(good)]


def reason_for(error: Exception) -> str:
    """Say why an image cannot be used. `Exception`, because Pillow raises a dozen types."""
    if isinstance(error, SkipImage):
        return str(error)
    return " ".join(f"{type(error).__name__}: {error}".split())


@contextlib.contextmanager
def errors_skip() -> Iterator[None]:
    """Turn any error inside the block into a SkipImage with the reason."""
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
