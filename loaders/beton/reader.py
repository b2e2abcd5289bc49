"""Reads `.beton` files, written here or by the ffcv library; it does not need that library."""

from __future__ import annotations

import contextlib
import functools
import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np

from fastimae.loaders.beton.fields import WantedFields
from fastimae.loaders.beton.layout import HEADER, MODES, ROW
from fastimae.loaders.beton.names import read_names
from fastimae.loaders.beton.ram_cache import keep_in_memory
from fastimae.loaders.beton.record import has_record
from fastimae.loaders.beton.sample_check import find_problem
from fastimae.loaders.beton.table import read_fields, read_table
from fastimae.loaders.beton.trailer import Trailer, read_trailer
from fastimae.loaders.beton.writer import BetonWriter
from fastimae.loaders.errors import DataError
from fastimae.loaders.images.pixel_form import PixelForm
from fastimae.loaders.order.identity import identity_of
from fastimae.loaders.settings import SourceSettings
from fastimae.loaders.sources.what_is import BETON, check_is

__all__ = ["BetonReader", "BetonWriter"]


class BetonReader:
    """The samples of a `.beton` file, read through a memory map without copying.

    Opening checks everything except the samples and their trailers, which `problem` checks. The
    reader is thread-safe, and picklable: the copy opens the file again.

    Args:
        path: the file.
        cache: "ram" reads the file into memory, where it stays until `close`; others do nothing.
        quiet: show no progress.
        label_field, image_field: names of the fields to read, see fields.py.

    Raises:
        DataError: the file is missing, truncated, foreign or damaged, has no images, has several
            fields that qualify, or does not fit in memory (cache).
    """

    labels: np.ndarray
    """int64 [N], -1 if the file has no label field."""
    class_names: list[str]
    """The name of each label; empty where names are not known."""
    kind: str
    """The kind of file in words, with the fields that were chosen if there was a choice."""
    image_field: str
    """Name of the field that the images are read from."""
    heights: np.ndarray
    """int64 [N], pixels."""
    widths: np.ndarray
    """int64 [N], pixels."""
    form: PixelForm
    """That of raw pixels; `RGB8` for ordinary images."""
    is_jpeg: np.ndarray
    """bool [N]; False means raw pixels [height, width, channels] of `form`."""
    trailer_positions: np.ndarray
    """int64 [N], bytes from the start of the file; 0 where a sample has no trailer."""
    trailer_sizes: np.ndarray
    """int64 [N], bytes."""
    has_trailers: bool
    """Whether any sample has one: then all should have one."""
    has_record: bool
    """Whether the file has a checksum of the labels and everything else that opening checks."""

    def __init__(
        self,
        path: str | Path,
        cache: Literal["auto", "none", "ram", "device"] = SourceSettings.cache,
        *,
        quiet: bool = False,
        label_field: str | None = None,
        image_field: str | None = None,
    ) -> None:
        self.path = Path(path)
        self._wanted = WantedFields(label_field, image_field)
        self._map = _map_file(self.path)
        self._view = memoryview(self._map)
        try:
            rows, names, self.kind, self.image_field, self.form = read_table(
                self.path, self._view, self._wanted
            )
            self.class_names = read_names(self.path, names, rows["label"])
            names.release()
            if cache == "ram":
                keep_in_memory(self.path, np.frombuffer(self._view, np.uint8), quiet=quiet)
        except BaseException:
            self.close()
            raise
        columns = {name: np.ascontiguousarray(rows[name]) for name in ROW.names}
        self.labels, self.heights, self.widths = (
            columns[name] for name in ("label", "height", "width")
        )
        self.is_jpeg = columns["mode"] == MODES["jpg"]
        self._positions, self._sizes = columns["ptr"], columns["size"]
        self.trailer_sizes = columns["trailer"]
        self.trailer_positions = (self._positions + self._sizes) * (self.trailer_sizes > 0)
        self.has_trailers = bool(self.trailer_sizes.any())
        self.has_record = has_record(self._view)
        self._checked, self._problems = np.zeros(len(rows), bool), dict[int, str]()

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> memoryview:
        """Return the bytes of a sample, uncopied: a JPEG file, or raw pixels."""
        position, size = self.region(index)
        return self._view[position : position + size]

    def region(self, index: int) -> tuple[int, int]:
        """Return the position and the size of a sample in the file, in bytes."""
        return int(self._positions[index]), int(self._sizes[index])

    def identity(self) -> str:
        """Identify the images and their order, wherever the file is: see `identity_of`."""
        marks = (column.tobytes() for column in (self._sizes, self.heights, self.widths))
        return identity_of(marks, len(self), self.read)

    def columns(self) -> dict[str, np.ndarray]:
        """Return the content of the file for compiled code: contiguous arrays, uncopied.

        `file` uint8 [bytes]; int64 [N]: `positions`, `sizes`, `heights`, `widths`,
        `trailer_positions`, `trailer_sizes`; `is_jpeg` bool [N]. The file stays mapped as long as
        they are held.
        """
        return {
            "file": np.frombuffer(self._view, np.uint8),
            "positions": self._positions,
            "sizes": self._sizes,
            "heights": self.heights,
            "widths": self.widths,
            "is_jpeg": self.is_jpeg,
            "trailer_positions": self.trailer_positions,
            "trailer_sizes": self.trailer_sizes,
        }

    def trailer(self, index: int) -> Trailer | None:
        """Return the trailer of a sample, its rows uncopied; None if it has none.

        Raises:
            DataError: the trailer is damaged.
        """
        block = self._trailer_bytes(index)
        if not block:
            return None
        try:
            return read_trailer(block)
        except ValueError as error:
            raise DataError(f"{self.path}: sample {index}: {error}") from error

    def problem(self, index: int) -> str | None:
        """Return why a sample is damaged, or None (see sample_check.py).

        The first call for a sample checks it, which may take as long as decoding it.
        """
        if not self._checked[index]:
            reason = find_problem(
                self.read(index),
                self._trailer_bytes(index),
                is_jpeg=bool(self.is_jpeg[index]),
                has_trailers=self.has_trailers,
            )
            if reason is not None:
                self._problems[index] = reason
            self._checked[index] = True  # after the reason: other threads may read both
        return self._problems.get(index)

    def _trailer_bytes(self, index: int) -> memoryview:
        position = int(self.trailer_positions[index])
        return self._view[position : position + int(self.trailer_sizes[index])]

    def close(self) -> None:
        """Unmap the file. Views from `read` that are still held keep it mapped until dropped."""
        self._view.release()
        with contextlib.suppress(BufferError):
            self._map.close()

    def __enter__(self) -> BetonReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Callable[..., BetonReader], tuple[Path]]:
        wanted = {"label_field": self._wanted.label, "image_field": self._wanted.image}
        return functools.partial(BetonReader, **wanted), (self.path,)


def field_names(path: Path) -> list[str]:
    """Return the names of a file's fields. Raises DataError."""
    mapped = _map_file(path)
    with mapped, memoryview(mapped) as view:
        return [field.name for field in read_fields(path, view)]


def _map_file(path: Path) -> mmap.mmap:
    if path.is_fifo():
        raise DataError(f"{path}: not a file")  # opening it would wait forever
    if path.is_dir():
        check_is(path, BETON)
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size < HEADER.itemsize:
                raise DataError(f"{path}: too short to be a .beton file")
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
