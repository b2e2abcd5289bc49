"""Decodes every sample of a `.beton` file to see that it is whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from tqdm import tqdm

from fastimae.loaders.beton import BetonReader
from fastimae.loaders.encode import check_sample
from fastimae.loaders.items import Item
from fastimae.loaders.safe_map import CRASHED, safe_map

_CHUNK = 64


def verify_beton(path: Path, workers: int) -> list[tuple[str, str]]:
    """The samples that do not decode, and why. Looks at the whole file in parallel.

    Raises:
        DataError: the file cannot be read as a `.beton` file at all.
    """
    with BetonReader(path) as reader:
        bar = tqdm(total=len(reader), desc="verify", unit="img")
        results = safe_map(
            check_sample, _samples(reader), workers=workers, chunk=_CHUNK, crashed=CRASHED
        )
        bad = []
        with bar, closing(results):
            for index, reason in enumerate(results):
                if reason is not None:
                    bad.append((f"sample {index}", reason))
                bar.update()
    return bad


def _samples(reader: BetonReader) -> Iterator[tuple[Item, int, int, bool]]:
    path = str(reader.path)
    shapes = zip(reader.heights, reader.widths, reader.is_jpeg, strict=True)
    for index, (height, width, is_jpeg) in enumerate(shapes):
        item = Item(path, f"sample {index}", *reader.region(index))
        yield item, int(height), int(width), bool(is_jpeg)
