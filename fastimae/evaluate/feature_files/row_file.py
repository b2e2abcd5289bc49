"""A safetensors file whose tensors grow by rows, which go to the disk as they come.

The format has its header first, with the place of each tensor, and no holes between them. So room
is made for as many rows as there can be, and at the end tensors of fewer rows are moved together.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

_TYPES = {"int64": "I64", "float32": "F32", "float16": "F16", "uint8": "U8"}
"""NumPy's names of types -> those of the format."""
_SPARE = 4096
"""Bytes of the header for what is only known at the end: tensors that are added, counts."""
_CHUNK = 1 << 26
"""Bytes that are moved at once."""


class Column(NamedTuple):
    """A tensor that grows: its type, and the shape of a row."""

    dtype: str
    shape: tuple[int, ...] = ()

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return np.dtype(self.dtype).itemsize * math.prod(self.shape)


class RowFile:
    """Writes rows of several tensors to one file; `finish` makes it a valid one."""

    def __init__(
        self, path: Path, columns: Mapping[str, Column], most: int, about: Mapping[str, str]
    ) -> None:
        """Open the file. columns: by name; those of the widest type first, so that all are aligned.

        most: rows that can come. about: the metadata of the header.
        """
        self.columns, self.about, self.rows = columns, dict(about), 0
        widest_header = _header(_entries(columns, most), self.about)
        self.begin = -(-(8 + len(widest_header) + _SPARE) // 8) * 8
        self.places, at = {}, self.begin
        for name, column in columns.items():
            self.places[name], at = at, at + most * column.row_bytes
        self.file: BinaryIO = path.open("w+b")

    def write(self, rows: Mapping[str, NDArray]) -> None:
        """Append rows to each of the tensors, by name."""
        (count,) = {len(values) for values in rows.values()}
        for name, column in self.columns.items():
            values = np.ascontiguousarray(rows[name], column.dtype)
            self.file.seek(self.places[name] + self.rows * column.row_bytes)
            self.file.write(values.data.cast("B") if values.size else b"")
        self.rows += count

    def finish(self, added: Mapping[str, NDArray], about: Mapping[str, str]) -> None:
        """Write the header and close the file. added: more tensors; about: more metadata."""
        end = self.begin
        for name, column in self.columns.items():
            size = self.rows * column.row_bytes
            self._move(self.places[name], end, size)
            end += size
        self.file.seek(end)
        self.file.truncate()
        for values in added.values():
            self.file.write(np.ascontiguousarray(values).tobytes())
        entries = _entries(self.columns, self.rows)
        for name, values in added.items():
            entries |= _entries({name: Column(str(values.dtype))}, len(values), end - self.begin)
            end += values.nbytes
        header = _header(entries, {**self.about, **about})
        room = self.begin - 8
        assert len(header) <= room, "the header has outgrown its room"
        self.file.seek(0)
        self.file.write(room.to_bytes(8, "little") + header.ljust(room))
        self.close()

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def _move(self, source: int, target: int, size: int) -> None:
        """Move bytes to an earlier place."""
        for at in range(0, size if source != target else 0, _CHUNK):
            self.file.seek(source + at)
            chunk = self.file.read(min(_CHUNK, size - at))
            self.file.seek(target + at)
            self.file.write(chunk)


def _entries(columns: Mapping[str, Column], rows: int, at: int = 0) -> dict[str, object]:
    """Describe tensors that lie one after another, the first one at this byte of the data."""
    entries = {}
    for name, column in columns.items():
        end = at + rows * column.row_bytes
        shape = [rows, *column.shape]
        entries[name] = {
            "dtype": _TYPES[column.dtype], "shape": shape, "data_offsets": [at, end],
        }  # fmt: skip
        at = end
    return entries


def _header(entries: Mapping[str, object], about: Mapping[str, str]) -> bytes:
    return json.dumps({"__metadata__": about, **entries}, separators=(",", ":")).encode()
