"""What follows each sample of a `.beton` file: its checksum, and where its rows of MCUs start.

A trailer lies right behind its sample's bytes, in the same page, at any alignment. It is an
allocation of its own with the sample's id, so that other readers pass over it. Little-endian:

    0          uint32  MAGIC: "FMT2", or "FMT1" in files older than their table's checksum
    4          uint32  CRC-32, as zlib computes it, of the sample's bytes
    8          uint32  components of the JPEG, if the writer vouches for it; else 0
    12         uint32  R, the number of rows of MCUs; 0 if unknown, or not a baseline JPEG
    16         R times {uint32 bit, int16 dc[4]}: `RowStart` of csrc/image.h
    16 + 12 R  uint32  CRC-32 of all the above

A writer vouches for a JPEG that it has decoded whole with the native library without finding
damage: as long as the checksum is right, no reader needs to look for any. In FMT1 it does so only
where there are rows.
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
    """What a trailer says."""

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
    """The trailer of a sample.

    rows: ROW_START [R], if they are known. components: of a JPEG that the caller vouches for: it
    has decoded all of it with the native library and found no damage; 0 for any other sample.
    """
    starts = b"" if rows is None else np.ascontiguousarray(rows, ROW_START).tobytes()
    count = len(starts) // ROW_START.itemsize
    head = np.array((MAGIC, zlib.crc32(payload), components, count), HEAD)
    content = head.tobytes() + starts
    return content + zlib.crc32(content).to_bytes(CRC_BYTES, "little")


def read_trailer(block: bytes | memoryview) -> Trailer:
    """Read a trailer, without copying its rows.

    Raises:
        ValueError: it is damaged; the message says how.
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
    """Bytes that the trailer of an image of so many pixel rows can have at most."""
    return HEAD.itemsize + -(-height // _SMALLEST_MCU) * ROW_START.itemsize + CRC_BYTES
