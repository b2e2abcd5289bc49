"""Checks and decodes every sample of a `.beton` file to see that it is whole."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from fastimae.loaders.beton import BetonReader
from fastimae.loaders.encode import JPEG_FORMATS, check_jpeg, decode_image
from fastimae.loaders.items import Item, SkipImage
from fastimae.loaders.limits import check_pixels, limited_to
from fastimae.loaders.safe_map import CRASHED, safe_map
from fastimae.loaders.trailer import Trailer, read_trailer

_CHUNK = 64


@dataclasses.dataclass(kw_only=True)
class Verification:
    """What was found out about a file."""

    bad: list[tuple[str, str]]
    """The samples that are not whole, and why."""
    without_checksum: int
    """Samples whose bytes may have changed without notice, as long as they decode."""


class Sample(NamedTuple):
    """A written sample, as it is sent to a worker process."""

    item: Item
    """Its bytes, and those of its trailer."""
    size: int
    """Without the trailer."""
    height: int
    width: int
    is_jpeg: bool


def verify_beton(path: Path, workers: int, max_pixels: int | None = None) -> Verification:
    """Look at the whole file in parallel; a sample of more than `max_pixels` is bad.

    Raises:
        DataError: the file cannot be read as a `.beton` file at all.
    """
    with BetonReader(path) as reader:
        bar = tqdm(total=len(reader), desc="verify", unit="img")
        results = safe_map(
            partial(check_sample, max_pixels=max_pixels),
            _samples(reader),
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
        return Verification(bad=bad, without_checksum=int((reader.trailer_sizes == 0).sum()))


def check_sample(sample: Sample, max_pixels: int | None = None) -> str | None:
    """What is wrong with a written sample, or None. Decodes it completely."""
    with limited_to(max_pixels):
        return _problem(sample)


def _problem(sample: Sample) -> str | None:
    try:
        check_pixels(sample.width, sample.height)
        data = sample.item.read()
        payload, block = data[: sample.size], data[sample.size :]
        trailer = _check_trailer(payload, block) if block else None
        if sample.is_jpeg:
            _check_image(payload, sample, trailer)
    except SkipImage as reason:
        return str(reason)
    except MemoryError:
        return "not enough memory"
    return None


def _check_trailer(payload: bytes, block: bytes) -> Trailer:
    try:
        trailer = read_trailer(block, len(payload))
    except ValueError as error:
        raise SkipImage(str(error)) from error
    if trailer.crc != zlib.crc32(payload):
        raise SkipImage("its bytes are not those that were written: the checksum differs")
    return trailer


def _check_image(payload: bytes, sample: Sample, trailer: Trailer | None) -> None:
    image, size = decode_image(payload), (sample.width, sample.height)
    if image.format not in JPEG_FORMATS or image.size != size:
        found = f"a {image.format} of {image.height} x {image.width}"
        raise SkipImage(f"{found}, not {sample.height} x {sample.width} JPEG")
    rows = check_jpeg(payload).rows
    if trailer is None or not len(trailer.rows) or not len(rows):
        return
    if not np.array_equal(trailer.rows, rows):
        raise SkipImage("its trailer names other starts of rows than it has")


def _samples(reader: BetonReader) -> Iterator[Sample]:
    path = str(reader.path)
    shapes = zip(reader.heights, reader.widths, reader.is_jpeg, strict=True)
    for index, (height, width, is_jpeg) in enumerate(shapes):
        position, size = reader.region(index)
        whole = size + int(reader.trailer_sizes[index])
        item = Item(path, f"sample {index}", position, whole)
        yield Sample(item, size, int(height), int(width), bool(is_jpeg))
