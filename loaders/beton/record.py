"""The checksum of a `.beton` file's table: of everything in the file except the samples.

The record covers the header, the field descriptors, the metadata (thus the labels, and the number
of samples), the names of the classes (names.py) and the allocation table. Samples have their own
checksums (trailer.py), and the rest is padding. It is stored where other readers do not look: in
the first bytes of the arguments of descriptor 0, if that is an image field, which has no arguments
there. Little-endian:

    0   4 bytes  "FTB1"
    4   uint32   CRC-32 (zlib's) of the parts above, with this record as zeros
    8   8 bytes  zeros

All zeros, as written by the ffcv library, mean that there is no record.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np

from fastimae.loaders.beton.bands_field import starts_with_images
from fastimae.loaders.beton.layout import DESCRIPTOR, HEADER
from fastimae.loaders.beton.trailer import MAGIC as TRAILER_MAGIC
from fastimae.loaders.errors import DataError

_MAGIC, _RECORD_BYTES = b"FTB1", 16
_RECORD_START = HEADER.itemsize + DESCRIPTOR.fields["arguments"][1]
RECORD_END = _RECORD_START + _RECORD_BYTES
"""Positions in the file."""


def with_record(head: bytes, metadata: bytes, names: bytes, table: bytes) -> bytes:
    """Return `head`, a file's header and descriptors, with the record of all these parts."""
    return head[:_RECORD_START] + _record(head, metadata, names, table) + head[RECORD_END:]


def has_record(view: memoryview) -> bool:
    """Return whether a file has a record, right or wrong."""
    return starts_with_images(view) and any(view[_RECORD_START:RECORD_END])


def check_record(
    path: Path, view: memoryview, first_byte: int, names: memoryview, end: int
) -> None:
    """Compare a file's record, if it has one, with its table.

    first_byte: end of the metadata; end: start of the allocation table.

    Raises:
        DataError: they differ.
    """
    parts = view[:first_byte], names, view[end:]
    if has_record(view) and view[_RECORD_START:RECORD_END] != _record(*parts):
        raise damaged_table(path)


def refuse_lost_record(path: Path, view: memoryview, trailers: np.ndarray) -> None:
    """Raise `DataError` for a file that has lost its record: its trailers are of the kind that
    comes with one.

    trailers: int64 [N], their positions; 0: none. Three are checked: checking all would mean
    reading the whole file.
    """
    for position in trailers[[0, len(trailers) // 2, -1]].tolist():
        if position and view[position : position + 4] == TRAILER_MAGIC.to_bytes(4, "little"):
            raise damaged_table(path)


def damaged_table(path: Path) -> DataError:
    """Return the error for a file whose table is not the one that was written."""
    return DataError(
        f"{path}: damaged, its table (labels, sizes and positions of the samples) is not what was "
        "written: copy the file again, or convert again"
    )


def _record(*parts: bytes | memoryview) -> bytes:
    """Compute the record of a file whose table consists of these parts, without copying them.

    The first part includes the bytes of the record, which count as zeros whatever they are.
    """
    crc = zlib.crc32(bytes(_RECORD_BYTES), zlib.crc32(parts[0][:_RECORD_START]))
    for part in (parts[0][RECORD_END:], *parts[1:]):
        crc = zlib.crc32(part, crc)
    return (_MAGIC + crc.to_bytes(4, "little")).ljust(_RECORD_BYTES, b"\0")
