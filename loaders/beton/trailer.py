"""The trailer of each sample in a `.beton` file: its checksum, and the starts of its MCU rows.

A trailer directly follows its sample's bytes, in the same page, at any alignment. It is a separate
allocation with the sample's id, so that other readers skip it. Little-endian:

    0          uint32  MAGIC: "FMT2", or "FMT1" in files older than the table's checksum
    4          uint32  CRC-32 (zlib's) of the sample's bytes
    8          uint32  components of the JPEG if the writer vouches for it, else 0
    12         uint32  R, the number of rows of MCUs; 0 if unknown, or not a baseline JPEG
    16         R times {uint32 bit, int16 dc[4]}: `RowStart` of csrc/image.h
    16 + 12 R  uint32  CRC-32 of all the above

The writer vouches for a JPEG if it has decoded all of it with the native library and found no
damage: then readers need no more than the checksum. In FMT1 it vouches only where there are rows.
"""

from __future__ import annotations

import zlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MAGIC = int.from_bytes(b"FMT2", "little")
_MAGICS = frozenset({MAGIC, int.from_bytes(b"FMT1", "little")})
HEAD = np.dtype([("magic", "<u4"), ("crc", "<u4"), ("components", "<u4"), ("rows", "<u4")])
ROW_START = np.dtype([("bit", "<u4"), ("dc", "<i2", (4,))])
"""`bit`: 8 * byte + bit (0 = most significant), counted from the sample's first byte; `dc`: the DC
predictors of the components there."""
CRC_BYTES = 4
_SMALLEST_MCU = 8


class Trailer(NamedTuple):
    """The content of a trailer."""

    crc: int
    """CRC-32 of the sample's bytes."""
    components: int
    rows: np.ndarray
    """ROW_START [R], read-only."""

    @property
    def vouches(self) -> bool:
        """Whether the writer has decoded all of the JPEG and found no damage."""
        return self.components > 0


def make_trailer(
    payload: bytes | memoryview, rows: NDArray[np.void] | None = None, components: int = 0
) -> bytes:
    """Make the trailer of a sample.

    rows: ROW_START [R], if known. components: those of a JPEG that the caller vouches for (see
    above), 0 for any other sample.
    """
    starts = b"" if rows is None else np.ascontiguousarray(rows, ROW_START).tobytes()
    count = len(starts) // ROW_START.itemsize
    head = np.array((MAGIC, zlib.crc32(payload), components, count), HEAD)
    content = head.tobytes() + starts
    return content + zlib.crc32(content).to_bytes(CRC_BYTES, "little")


def read_trailer(block: bytes | memoryview) -> Trailer:
    """Read a trailer, without copying its rows.

    Raises:
        ValueError: the trailer is damaged; the message says how.
    """
    if len(block) < HEAD.itemsize + CRC_BYTES:
        raise ValueError("its trailer is cut short")
    magic, crc, components, count = np.frombuffer(block, HEAD, 1)[0].tolist()
    if magic not in _MAGICS:
        raise ValueError("what follows it is not a trailer")
    end = HEAD.itemsize + count * ROW_START.itemsize
    if len(block) != end + CRC_BYTES:
        raise ValueError(f"its trailer of {len(block)} bytes cannot hold {count} rows")
    if zlib.crc32(block[:end]) != int.from_bytes(block[end:], "little"):
        raise ValueError("its trailer is damaged")
    return Trailer(crc, components, np.frombuffer(block, ROW_START, count, HEAD.itemsize))


def largest_trailer(height: int) -> int:
    """Return the most bytes that the trailer of an image of `height` pixel rows can have."""
    return HEAD.itemsize + -(-height // _SMALLEST_MCU) * ROW_START.itemsize + CRC_BYTES
