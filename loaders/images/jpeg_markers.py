"""The segments of a JPEG file, delimited as libjpeg does it.

libjpeg skips anything between two segments until it meets a marker, and trusts the length that a
segment states, right or wrong. A stricter reader would see different data.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

START_OF_IMAGE = b"\xff\xd8"
SCAN_DATA = 0
"""Pseudo marker of the coded data after a scan header, which has none."""
HUFFMAN_TABLES, END_OF_IMAGE, START_OF_SCAN, QUANTISATION_TABLES = 0xC4, 0xD9, 0xDA, 0xDB
RESTART_INTERVAL = 0xDD
_ARITHMETIC_CONDITIONS, _LINE_COUNT, _COMMENT = 0xCC, 0xDC, 0xFE
_RESTARTS = range(0xD0, 0xD8)
APPLICATION = range(0xE0, 0xF0)
FRAMES = frozenset(range(0xC0, 0xD0)) - {HUFFMAN_TABLES, 0xC8, _ARITHMETIC_CONDITIONS}
# Markers without a length. Between segments they mean nothing, and libjpeg skips them.
_BARE = frozenset({0x01, *_RESTARTS})
# libjpeg hardly looks into these, so any length is accepted.
_SKIPPED = frozenset({_LINE_COUNT, _COMMENT, *APPLICATION})
_READ = FRAMES | {
    HUFFMAN_TABLES,
    START_OF_SCAN,
    QUANTISATION_TABLES,
    _ARITHMETIC_CONDITIONS,
    RESTART_INTERVAL,
}

# ff 00 is no marker. Any number of ff may precede one, but a pattern that included them would take
# quadratic time, and damaged files are full of erased memory (ff).
_MARKER = re.compile(rb"\xff[^\x00\xff]", re.DOTALL)
# In the data of a scan, ff d0 to ff d7 are restarts.
_MARKER_IN_SCAN = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]", re.DOTALL)


class Segment(NamedTuple):
    """A stretch of a JPEG file."""

    marker: int
    """The second byte of its marker, or `SCAN_DATA`."""
    start: int
    """Position of its marker, without fill bytes before it."""
    body: int
    """Position after marker and length."""
    end: int
    stray: bool = False
    """Whether there are bytes before it that belong to no segment."""
    idle: bool = False
    """Whether it has no effect: its marker is not allowed here, or its length is too small to
    include the length field."""


def segments(data: bytes | memoryview) -> Iterator[Segment]:
    """Yield the segments after the start marker.

    The last one is the end marker, or the last before something that libjpeg cannot read: an
    unknown marker, a wrong length where that matters, the end of the file.
    """
    position, pattern = len(START_OF_IMAGE), _MARKER
    while match := pattern.search(data, position):
        start = match.start()
        between = position + len(bytes(data[position:start]).rstrip(b"\xff"))
        if pattern is _MARKER_IN_SCAN:
            yield Segment(SCAN_DATA, position, position, between)
            position = between
        segment = _segment_at(data, start, stray=between > position)
        if segment is None or segment.end > len(data):
            return
        yield segment
        if segment.marker == END_OF_IMAGE:
            return
        position = segment.end
        pattern = _MARKER_IN_SCAN if segment.marker == START_OF_SCAN else _MARKER


def _segment_at(data: bytes | memoryview, start: int, stray: bool) -> Segment | None:
    """Return the segment whose marker is at `start`; None if libjpeg gives up there."""
    marker, body = data[start + 1], start + 4
    if marker in _BARE or marker == END_OF_IMAGE:
        return Segment(marker, start, start + 2, start + 2, stray, marker in _BARE)
    length = int.from_bytes(data[start + 2 : body])
    too_short = length < 2
    if body > len(data) or marker not in (_SKIPPED if too_short else _SKIPPED | _READ):
        return None
    end = max(body, start + 2 + length)
    return Segment(marker, start, body, end, stray, too_short or marker == _LINE_COUNT)
