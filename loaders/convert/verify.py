"""Verification of a `.beton` file: every sample is checked and decoded."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fastimae.loaders import native_library
from fastimae.loaders.beton.fields import NO_LABELS, UnclearField
from fastimae.loaders.beton.reader import BetonReader
from fastimae.loaders.beton.sample_check import find_problem
from fastimae.loaders.beton.trailer import read_trailer
from fastimae.loaders.convert.encode import JPEG_FORMATS, decode_image
from fastimae.loaders.image_location import ImageLocation, SkipImage
from fastimae.loaders.images.limits import check_pixels, limited_to
from fastimae.loaders.workers.safe_map import CRASHED, safe_map
from fastimae.log import log
from fastimae.progress import Meter

_CHUNK = 64


@dataclasses.dataclass(kw_only=True)
class Verification:
    """The result of checking a file."""

    bad: list[tuple[str, str]]
    """The damaged samples, and why."""
    has_trailers: bool
    """Whether the samples have checksums. Without them, changed bytes go unnoticed if they still
    decode."""
    has_record: bool
    """Whether the labels have a checksum."""


class WrittenSample(NamedTuple):
    """A sample of the file, as it is sent to a worker process."""

    item: ImageLocation
    """Where its bytes are, followed by its trailer."""
    size: int
    """Bytes, without the trailer."""
    height: int
    width: int
    is_jpeg: bool
    has_trailers: bool
    """Whether any sample of the file has a trailer."""


def verify_beton(path: Path, workers: int, max_pixels: int | None = None) -> Verification:
    """Check all of a file in parallel; a sample of more than `max_pixels` is bad.

    Raises:
        DataError: the file cannot be read as a `.beton` file at all.
    """
    with open_to_verify(path) as reader:
        results = safe_map(
            partial(check_sample, max_pixels=max_pixels),
            samples_of(reader),
            workers=workers,
            chunk=_CHUNK,
            crashed=CRASHED,
        )
        bad = []
        with closing(results), Meter(len(reader), "verify", "img") as meter:
            for index, reason in enumerate(results):
                if reason is not None:
                    bad.append((f"sample {index}", reason))
                meter.update()
        return Verification(bad=bad, has_trailers=reader.has_trailers, has_record=reader.has_record)


def open_to_verify(path: Path) -> BetonReader:
    """Open a file; if its label field is unclear, warn and open it without labels."""
    try:
        return BetonReader(path)
    except UnclearField as error:
        log.warning("%s", error)
    return BetonReader(path, label_field=NO_LABELS)


def check_sample(sample: WrittenSample, max_pixels: int | None = None) -> str | None:
    """Decode a sample completely; return what is wrong with it, or None.

    The verdict is the same as that of the loaders, whatever window they crop.
    """
    with limited_to(max_pixels):
        return _problem(sample)


def _problem(sample: WrittenSample) -> str | None:
    try:
        check_pixels(sample.width, sample.height)
        data = sample.item.read()
        payload, block = data[: sample.size], data[sample.size :]
        problem = find_problem(
            payload, block, is_jpeg=sample.is_jpeg, has_trailers=sample.has_trailers
        )
        if problem is None and sample.is_jpeg:
            _check_image(payload, sample)
            _check_rows(payload, block)
    except SkipImage as reason:
        return str(reason)
    except MemoryError:
        return "not enough memory"
    return problem


def _check_image(payload: bytes, sample: WrittenSample) -> None:
    (image, _), size = decode_image(payload), (sample.width, sample.height)
    if image.format not in JPEG_FORMATS or image.size != size:
        actual = f"a {image.format} of {image.height} x {image.width}"
        raise SkipImage(f"{actual}, not {sample.height} x {sample.width} JPEG")


def _check_rows(payload: bytes, block: bytes) -> None:
    """Compare the row starts in an intact trailer with those that the native library finds."""
    written = read_trailer(block).rows if block else ()
    if len(written) and native_library.load() is not None:
        rows = native_library.inspect_jpeg(payload).rows
        if len(rows) and not np.array_equal(written, rows):
            raise SkipImage("the row starts in its trailer are wrong")


def samples_of(reader: BetonReader) -> Iterator[WrittenSample]:
    """Yield each sample of a file, for `check_sample`."""
    path = str(reader.path)
    shapes = zip(reader.heights, reader.widths, reader.is_jpeg, strict=True)
    for index, (height, width, is_jpeg) in enumerate(shapes):
        position, size = reader.region(index)
        item = ImageLocation(
            path, f"sample {index}", position, size + int(reader.trailer_sizes[index])
        )
        yield WrittenSample(item, size, int(height), int(width), bool(is_jpeg), reader.has_trailers)
