"""Checks and decodes every sample of a `.beton` file to see that it is whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from fastimae.loaders import native_library
from fastimae.loaders.beton import BetonReader
from fastimae.loaders.beton_fields import NO_LABELS, UnclearField
from fastimae.loaders.encode import JPEG_FORMATS, decode_image
from fastimae.loaders.items import Item, SkipImage
from fastimae.loaders.limits import check_pixels, limited_to
from fastimae.loaders.safe_map import CRASHED, safe_map
from fastimae.loaders.trailer import read_trailer
from fastimae.loaders.verdict import find_problem
from fastimae.log import log

_CHUNK = 64


@dataclasses.dataclass(kw_only=True)
class Verification:
    """What was found out about a file."""

    bad: list[tuple[str, str]]
    """The samples that are not whole, and why."""
    has_trailers: bool
    """Whether the samples have checksums: else their bytes may have changed without notice, as long
    as they decode."""
    has_record: bool
    """Whether the labels have a checksum."""


class Sample(NamedTuple):
    """A written sample, as it is sent to a worker process."""

    item: Item
    """Its bytes, and those of its trailer."""
    size: int
    """Without the trailer."""
    height: int
    width: int
    is_jpeg: bool
    has_trailers: bool
    """Whether any sample of the file has a trailer."""


def verify_beton(path: Path, workers: int, max_pixels: int | None = None) -> Verification:
    """Look at the whole file in parallel; a sample of more than `max_pixels` is bad.

    Raises:
        DataError: the file cannot be read as a `.beton` file at all.
    """
    with open_to_verify(path) as reader:
        bar = tqdm(total=len(reader), desc="verify", unit="img")
        results = safe_map(
            partial(check_sample, max_pixels=max_pixels),
            samples_of(reader),
            workers=workers,
            chunk=_CHUNK,
            crashed=CRASHED,
        )
        bad = []
        with bar, closing(results):
            for index, reason in enumerate(results):
                if reason is not None:
                    bad.append((f"sample {index}", reason))
                bar.update()
        return Verification(bad=bad, has_trailers=reader.has_trailers, has_record=reader.has_record)


def open_to_verify(path: Path) -> BetonReader:
    """The file, without labels where nothing says which of its fields they are. A warning does."""
    try:
        return BetonReader(path)
    except UnclearField as error:
        log.warning("%s", error)
    return BetonReader(path, label_field=NO_LABELS)


def check_sample(sample: Sample, max_pixels: int | None = None) -> str | None:
    """What is wrong with a written sample, or None: what the loaders say of it, whatever window
    they show. Decodes it completely."""
    with limited_to(max_pixels):
        return _problem(sample)


def _problem(sample: Sample) -> str | None:
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


def _check_image(payload: bytes, sample: Sample) -> None:
    (image, _), size = decode_image(payload), (sample.width, sample.height)
    if image.format not in JPEG_FORMATS or image.size != size:
        found = f"a {image.format} of {image.height} x {image.width}"
        raise SkipImage(f"{found}, not {sample.height} x {sample.width} JPEG")


def _check_rows(payload: bytes, block: bytes) -> None:
    """Compare the starts of rows in a sound trailer with those that the native library finds."""
    written = read_trailer(block).rows if block else ()
    if len(written) and native_library.load() is not None:
        rows = native_library.inspect_jpeg(payload).rows
        if len(rows) and not np.array_equal(written, rows):
            raise SkipImage("its trailer names other starts of rows than it has")


def samples_of(reader: BetonReader) -> Iterator[Sample]:
    """Each sample of a file, for `check_sample`."""
    path = str(reader.path)
    shapes = zip(reader.heights, reader.widths, reader.is_jpeg, strict=True)
    for index, (height, width, is_jpeg) in enumerate(shapes):
        position, size = reader.region(index)
        whole = size + int(reader.trailer_sizes[index])
        item = Item(path, f"sample {index}", position, whole)
        yield Sample(item, size, int(height), int(width), bool(is_jpeg), reader.has_trailers)
