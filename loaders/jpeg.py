"""What a JPEG file says about itself, read from its markers without decoding it."""

from __future__ import annotations

import re
from typing import NamedTuple

_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_HUFFMAN_FRAMES = frozenset({0xC0, 0xC1, 0xC2})
"""Baseline, extended sequential and progressive: what every JPEG decoder reads."""

# In the data of a scan, ff 00 is a data byte and ff d0 to ff d7 are restarts.
_MARKER_IN_SCAN = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])", re.DOTALL)


class JpegInfo(NamedTuple):
    """The frame header, and whether the file is whole."""

    huffman: bool
    """Baseline or progressive, not lossless or arithmetic."""
    precision: int
    """Bits per channel."""
    height: int
    width: int
    channels: int
    complete: bool
    """Whether the end marker is where it should be."""

    @property
    def is_plain(self) -> bool:
        """Whether any decoder reads it as RGB: 8 bits, gray or three channels."""
        return self.huffman and self.precision == 8 and self.channels in (1, 3)


def read_jpeg_info(data: bytes) -> JpegInfo | None:
    """Walk the markers of a JPEG file; None if there is no frame header."""
    return _walk(data, scans=True)


def read_jpeg_header(data: bytes | memoryview) -> JpegInfo | None:
    """As `read_jpeg_info`, but the scans are not read: the end marker is looked for in the last
    two bytes."""
    return _walk(data, scans=False)


def _walk(data: bytes | memoryview, scans: bool) -> JpegInfo | None:
    frame = None
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # padding
            position += 1
            continue
        if marker == _END_OF_IMAGE:
            break
        length = int.from_bytes(data[position + 2 : position + 4])
        body = data[position + 4 : position + 2 + length]
        if marker in _START_OF_FRAME and len(body) >= 6:
            frame = marker, body
        position += 2 + length
        if marker == _START_OF_SCAN and not scans:
            position = len(data) - 2
            break
        if marker == _START_OF_SCAN:
            found = _MARKER_IN_SCAN.search(data, position)
            position = found.end() - 2 if found else len(data)
    if frame is None:
        return None
    marker, body = frame
    return JpegInfo(
        huffman=marker in _HUFFMAN_FRAMES,
        precision=body[0],
        height=int.from_bytes(body[1:3]),
        width=int.from_bytes(body[3:5]),
        channels=body[5],
        complete=data[position : position + 2] == bytes([0xFF, _END_OF_IMAGE]),
    )
