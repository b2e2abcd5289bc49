"""What libjpeg knows of a JPEG file after the segments that it has read so far.

Frame header, tables and scan headers are checked as its jdmarker.c and jdphuff.c check them, in the
functions named below. The coded data is not looked at.
"""

from __future__ import annotations

from typing import NamedTuple

from fastimae.loaders.jpeg_markers import (
    END_OF_IMAGE,
    FRAMES,
    HUFFMAN_TABLES,
    QUANTISATION_TABLES,
    RESTART_INTERVAL,
    SCAN_DATA,
    START_OF_SCAN,
    Segment,
)

COEFFICIENTS = 64
SEQUENTIAL_BAND = bytes([0, COEFFICIENTS - 1, 0])
"""How the header of a sequential scan ends: the first and the last coefficient, and no bits of them
sent before or left for later."""
_PROGRESSIVE_FRAMES = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_NOT_SENT = -1
_AC_TABLE = 0x10
"""Set in the number of a Huffman table for other coefficients than the first."""
_SLOTS = range(4)


class Component(NamedTuple):
    """A component as the frame header describes it."""

    id: int
    sampling: int
    """Horizontal factor in the upper half of the byte, vertical in the lower."""
    table: int
    """Slot of its quantisation table."""


class JpegWalk:
    """Takes in one segment after the other."""

    def __init__(self) -> None:
        self.frame, self.precision, self.height, self.width = 0, 0, 0, 0
        """Marker of the frame header, 0 before there was one; bits; pixels."""
        self.components: list[Component] = []
        self.scans = 0
        self.complete = False
        """Whether the end marker was reached."""
        self.tidy = True
        """See `JpegInfo`, also for the next."""
        self.own_tables = True
        self._in_order = True
        self._left_out: list[list[int]] = []
        """For each component and coefficient: how many low bits are still to come."""
        self._huffman_tables: set[int] = set()
        self._quantisation_tables: set[int] = set()

    @property
    def progressive(self) -> bool:
        """Whether scans may send a part of the coefficients, or of their bits."""
        return self.frame in _PROGRESSIVE_FRAMES

    @property
    def all_scans(self) -> bool:
        """Whether every bit of every coefficient was sent, in an order that is allowed."""
        return self.scans > 0 and self._in_order and not any(map(any, self._left_out))

    @property
    def has_one_scan(self) -> bool:
        """Whether the first scan of a sequential file has all components: no other may follow."""
        return not self.progressive and self.scans == 1 and self.all_scans

    def take(self, segment: Segment, data: bytes | memoryview) -> bool:
        """Go on by a segment of `data`. False if libjpeg would give up at it."""
        marker = segment.marker
        self.tidy &= not (segment.stray or segment.idle)
        self.complete = marker == END_OF_IMAGE
        body = b"" if marker == SCAN_DATA else bytes(data[segment.body : segment.end])
        if marker in FRAMES:
            return self._take_frame(marker, body)
        if marker == HUFFMAN_TABLES:
            return self._take_huffman_tables(body)
        if marker == QUANTISATION_TABLES:
            return self._take_quantisation_tables(body)
        if marker == START_OF_SCAN:
            return self._take_scan(body)
        return marker != RESTART_INTERVAL or len(body) == 2

    def _take_frame(self, marker: int, body: bytes) -> bool:
        """get_sof"""
        if self.frame or len(body) < 6 or len(body) != 6 + 3 * body[5]:
            return False
        self.precision, count = body[0], body[5]
        self.height, self.width = int.from_bytes(body[1:3]), int.from_bytes(body[3:5])
        if not (self.height and self.width and count):
            return False
        self.frame = marker
        self.components = [Component(*body[at : at + 3]) for at in range(6, len(body), 3)]
        self._left_out = [[_NOT_SENT] * COEFFICIENTS for _ in range(count)]
        return True

    def _take_huffman_tables(self, body: bytes) -> bool:
        """get_dht"""
        while len(body) > 16:
            number, values = body[0], sum(body[1:17])
            if number & ~_AC_TABLE not in _SLOTS or values > min(256, len(body) - 17):
                return False
            self._huffman_tables.add(number)
            body = body[17 + values :]
        return not body

    def _take_quantisation_tables(self, body: bytes) -> bool:
        """get_dqt"""
        while body:
            slot, size = body[0] & 15, 1 + COEFFICIENTS * (2 if body[0] >> 4 else 1)
            if slot not in _SLOTS or len(body) < size:
                return False
            self._quantisation_tables.add(slot)
            body = body[size:]
        return True

    def _take_scan(self, body: bytes) -> bool:
        """get_sos and start_pass_phuff_decoder"""
        count = body[0] if body else 0
        if not self.frame or not 1 <= count <= 4 or len(body) != 4 + 2 * count:
            return False
        self.scans += 1
        band = body[-3:] if self.progressive else SEQUENTIAL_BAND
        self.tidy &= band == body[-3:]
        if self.progressive and not _may_be_sent(band, count):
            return False
        ids = [component.id for component in self.components]
        named = list(body[1:-3:2])
        # Of components that share a name, or stand in another order, libjpeg reads some.
        self._in_order &= [name for name in ids if name in named] == named
        if not set(named) <= set(ids):
            return False
        for name, slots in zip(named, body[2:-3:2], strict=True):
            self._take_band(ids.index(name), slots, band)
        return True

    def _take_band(self, component: int, slots: int, band: bytes) -> None:
        """Note what a scan sends of one component; slots: of its two Huffman tables."""
        first, last, (before, after) = band[0], band[1], divmod(band[2], 16)
        dc, ac = {slots >> 4}, {_AC_TABLE | slots & 15}
        used = ac if first else dc
        if not self.progressive:
            used = dc | ac
        elif not first and before:
            used = set()
        self.own_tables &= used <= self._huffman_tables
        self.own_tables &= self.components[component].table in self._quantisation_tables
        left_out = self._left_out[component]
        self._in_order &= set(left_out[first : last + 1]) == {before or _NOT_SENT}
        self._in_order &= not first or left_out[0] != _NOT_SENT
        left_out[first : last + 1] = [after] * (last + 1 - first)


def _may_be_sent(band: bytes, components: int) -> bool:
    """Whether a progressive scan may send this of so many components."""
    first, last, (before, after) = band[0], band[1], divmod(band[2], 16)
    alone = first <= last < COEFFICIENTS and components == 1 if first else last == 0
    return alone and after <= 13 and before in (0, after + 1)
