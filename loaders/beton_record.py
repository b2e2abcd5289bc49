"""The checksum of a `.beton` file's table: of all that says what and where the samples are.

It covers the header, the field descriptors, the metadata (so the labels, and how many samples
there are), the names of the classes (beton_names.py) and the allocation table; samples have their
own (trailer.py), and the rest is padding. It lies where other readers do not look, in the first
bytes of the arguments of descriptor 0, if that is an image field, which has none. Little-endian:

    0   4 bytes  "FTB1"
    4   uint32   CRC-32, as zlib computes it, of the above, with this record as zeros
    8   8 bytes  zeros

All zeros, as the ffcv library writes them, mean that there is none.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np

from fastimae.loaders.beton_format import DESCRIPTOR, HEADER, IMAGE_FIELD
from fastimae.loaders.errors import DataError
from fastimae.loaders.trailer import MAGIC as TRAILER_MAGIC

_MAGIC, _BYTES = b"FTB1", 16
TYPE_AT = HEADER.itemsize + DESCRIPTOR.fields["type_id"][1]
_FROM = HEADER.itemsize + DESCRIPTOR.fields["arguments"][1]
RECORD_END = _FROM + _BYTES
"""Positions in the file: of descriptor 0's type, and of what follows the record."""


def with_record(head: bytes, metadata: bytes, names: bytes, table: bytes) -> bytes:
    """`head`, the header and descriptors of a file of these parts, with its record."""
    return head[:_FROM] + _record(head, metadata, names, table) + head[RECORD_END:]


def has_record(view: memoryview) -> bool:
    """Whether a file has a record, right or wrong."""
    return view[TYPE_AT] == IMAGE_FIELD and any(view[_FROM:RECORD_END])


def check_record(
    path: Path, view: memoryview, first_byte: int, names: memoryview, end: int
) -> None:
    """Compare a file's record with its table, if it has a record.

    first_byte: where the metadata ends; end: where the allocation table begins.

    Raises:
        DataError: it is not the right one.
    """
    parts = view[:first_byte], names, view[end:]
    if has_record(view) and view[_FROM:RECORD_END] != _record(*parts):
        raise damaged_table(path)


def refuse_lost_record(path: Path, view: memoryview, trailers: np.ndarray) -> None:
    """`DataError` for a file without a record whose trailers, at these positions (0: none), are of
    the kind that comes with one. Looks at three: all would mean to read the whole file."""
    for position in trailers[[0, len(trailers) // 2, -1]].tolist():
        if position and view[position : position + 4] == TRAILER_MAGIC.to_bytes(4, "little"):
            raise damaged_table(path)


def damaged_table(path: Path) -> DataError:
    """The error for a file whose table is not what was written."""
    return DataError(
        f"{path}: damaged, its table (labels, sizes and positions of the samples) is not what was "
        "written: copy the file anew, or convert again"
    )


def _record(*parts: bytes | memoryview) -> bytes:
    """The record of a file whose table consists of these parts. The first holds the place of the
    record, whatever lies there; nothing is copied."""
    crc = zlib.crc32(bytes(_BYTES), zlib.crc32(parts[0][:_FROM]))
    for part in (parts[0][RECORD_END:], *parts[1:]):
        crc = zlib.crc32(part, crc)
    return (_MAGIC + crc.to_bytes(4, "little")).ljust(_BYTES, b"\0")
