"""Writes `.beton` files sample by sample; an interrupted file can be resumed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from fastimae.loaders.beton.bands_field import field_type, form_arguments
from fastimae.loaders.beton.layout import (
    ALLOCATION,
    DEFAULT_MODE,
    DEFAULT_PAGE_SIZE,
    DESCRIPTOR,
    HEADER,
    INT_FIELD,
    MAX_SIDE,
    MODES,
    ROW,
    VERSION,
    end_of,
    metadata_dtype,
)
from fastimae.loaders.beton.names import names_block, with_names
from fastimae.loaders.beton.record import with_record
from fastimae.loaders.beton.trailer import make_trailer
from fastimae.loaders.images.pixel_form import RGB8, PixelForm

_BUFFER_BYTES = 4 << 20


class BetonWriter:
    """Appends samples to `path`.part, which `close` completes and renames to `path`.

    The bytes of the file depend only on the samples and the arguments. Leaving the context by an
    exception keeps the `.part` file and does not touch `path`.

    Args:
        path: the file to write.
        has_labels: whether the file has a label field.
        page_size: bytes, a power of two; no sample with its trailer may be larger. The ffcv
            library requires 2 MiB to 2 GiB.
        capacity: the most samples that the file can hold; by default as many as fit before the
            second page (349,000 for pages of 8 MiB).
        rows: ROW [N], `rows` of an earlier writer with the same arguments, to resume after these.
        class_names: the name of each label, stored in the file.
        form: that of raw pixels. All samples are raw unless it is 3 x uint8.

    Raises:
        OSError: the file cannot be written.
        ValueError: bad arguments, or the `.part` file does not hold `rows`.
    """

    def __init__(
        self,
        path: str | Path,
        has_labels: bool = True,
        page_size: int = DEFAULT_PAGE_SIZE,
        capacity: int | None = None,
        rows: np.ndarray | None = None,
        class_names: Sequence[str] = (),
        form: PixelForm = RGB8,
    ) -> None:
        if page_size < 1 << 12 or page_size >= 1 << 32 or page_size & (page_size - 1):
            raise ValueError(f"page_size must be a power of two of 4 KiB to 2 GiB, not {page_size}")
        self.path = Path(path)
        self.part = part_path(self.path)
        self.page_size = page_size
        self.form = form
        self._fields = [(field_type(form), b"image")] + [(INT_FIELD, b"label")] * has_labels
        self._class_names = list(class_names) if has_labels else []
        self._metadata = metadata_dtype([type_id for type_id, _ in self._fields])
        head = HEADER.itemsize + len(self._fields) * DESCRIPTOR.itemsize
        if capacity is None:
            capacity = (page_size - head) // self._metadata.itemsize
        self._rows = np.zeros(capacity, ROW)
        self._count = 0
        self._position = _round_up(head + capacity * self._metadata.itemsize, page_size)
        self._open(rows)

    def _open(self, rows: np.ndarray | None) -> None:
        """Open the `.part` file, new or cut off after the last of `rows`."""
        if rows is not None and len(rows):
            self._count = len(rows)
            self._rows[: self._count] = rows
            self._position = end_of(rows)
            if self.part.stat().st_size < self._position:
                raise ValueError(f"{self.part} is shorter than its samples")
        self._file = self.part.open("r+b" if self._count else "w+b", buffering=_BUFFER_BYTES)
        self._file.truncate(self._position)
        self._file.seek(self._position)

    @property
    def rows(self) -> np.ndarray:
        """ROW [N], the samples so far. With the `.part` file, they allow resuming later."""
        return self._rows[: self._count]

    def append(
        self,
        payload: bytes | memoryview,
        *,
        height: int,
        width: int,
        mode: Literal["jpg", "raw"] = DEFAULT_MODE,
        label: int = -1,
        trailer: bytes | None = None,
    ) -> None:
        """Add a sample: a JPEG file's bytes, or raw little-endian pixels [height, width, C].

        trailer: from `make_trailer`; by default one with only the checksum, b"" for none. Either
        all samples of a file have one, or none has: then the file has no checksums at all, like a
        file of the ffcv library.
        """
        if trailer is None:
            trailer = make_trailer(payload)
        size, total = len(payload), len(payload) + len(trailer)
        if self._count == len(self._rows):
            raise ValueError(f"there is room for only {self._count} samples; raise capacity")
        if self._count and bool(trailer) != self._has_trailers():
            raise ValueError("the samples of a file must all have a trailer, or none of them")
        if not size or total > self.page_size:
            raise ValueError(
                f"{size} bytes and a trailer of {len(trailer)} do not fit a page of "
                f"{self.page_size}"
            )
        if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE):
            raise ValueError(f"{height} x {width}: sides must be 1 to {MAX_SIDE}")
        if label >= len(self._class_names) > 0:
            raise ValueError(f"label {label} has no name: there are {len(self._class_names)}")
        if mode != "raw" and self.form != RGB8:
            raise ValueError(f"a JPEG cannot hold pixels of {self.form}")
        if mode == "raw" and size != height * width * self.form.nbytes:
            raise ValueError(f"{height} x {width} raw pixels are not {size} bytes")
        room = -self._position % self.page_size or self.page_size
        if total > room:
            self._file.write(bytes(room))
            self._position += room
        self._file.write(payload)
        self._file.write(trailer)
        row = (self._position, size, len(trailer), height, width, MODES[mode], label)
        self._rows[self._count] = row
        self._count += 1
        self._position += total

    def sync(self) -> None:
        """Wait until everything appended so far is on disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Complete the file and rename it from `.part` to `path`."""
        if self._file.closed:
            return
        names, at = names_block(self._class_names), _round_up(self._position, 8)
        head = with_names(self._head(_round_up(at + len(names), 8)), names, at)
        metadata, table = self._sample_metadata().tobytes(), self._allocation_table().tobytes()
        if self._has_trailers():
            head = with_record(head, metadata, names, table)
        for part in (names, table):
            self._file.write(bytes(-self._file.tell() % 8) + part)
        self._file.seek(0)
        self._file.write(head + metadata)
        self.sync()
        self._file.close()
        self.part.replace(self.path)

    def discard(self) -> None:
        """Delete the `.part` file."""
        self._file.close()
        self.part.unlink()

    def abort(self) -> None:
        """Close the `.part` file as it is."""
        with contextlib.suppress(OSError):  # a full disk: synced samples are still there
            self._file.close()

    def _has_trailers(self) -> bool:
        return self._count > 0 and self._rows[0]["trailer"] > 0

    def _head(self, table_position: int) -> bytes:
        header = np.zeros((), HEADER)
        header["version"] = VERSION
        header["num_fields"] = len(self._fields)
        header["page_size"] = self.page_size
        header["num_samples"] = self._count
        header["alloc_table_ptr"] = table_position
        descriptors = np.zeros(len(self._fields), DESCRIPTOR)
        for descriptor, (type_id, name) in zip(descriptors, self._fields, strict=True):
            descriptor["type_id"], descriptor["name"] = type_id, name
        descriptors[0]["arguments"] = form_arguments(self.form)
        return header.tobytes() + descriptors.tobytes()

    def _sample_metadata(self) -> np.ndarray:
        metadata = np.zeros(self._count, self._metadata)
        metadata["f0"]["data_ptr"] = self.rows["ptr"]
        for name in ("mode", "width", "height"):
            metadata["f0"][name] = self.rows[name]
        if "f1" in metadata.dtype.names:
            metadata["f1"] = self.rows["label"]
        return metadata

    def _allocation_table(self) -> np.ndarray:
        """Return ALLOCATION entries of trailers, then of samples: a table that is cut short lacks a
        sample, and so is noticed."""
        rows, table = self.rows, np.empty((2, self._count), ALLOCATION)
        table["sample_id"] = np.arange(self._count)
        table["ptr"] = rows["ptr"] + rows["size"], rows["ptr"]
        table["size"] = rows["trailer"], rows["size"]
        return table[table["size"] > 0]

    def __enter__(self) -> BetonWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()


def part_path(path: Path) -> Path:
    """Return the path of the file while it is incomplete."""
    return path.with_name(path.name + ".part")


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
