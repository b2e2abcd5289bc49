"""The state of libjpeg after each segment of a JPEG file: frame, tables, coefficients so far.

Frame header, tables and scan headers are checked as in libjpeg's jdmarker.c and jdphuff.c; the
docstrings name the functions there. The coded data is not decoded.
"""

from __future__ import annotations

from typing import NamedTuple

from fastimae.loaders.images.jpeg_markers import (
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
"""End of a sequential scan's header: first and last coefficient, and no bits of them sent before or
left for later."""
_PROGRESSIVE_FRAMES = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_NOT_SENT = -1
_AC_TABLE = 0x10
"""Bit set in the number of an AC Huffman table (for all coefficients but the first)."""
_SLOTS = range(4)


class Component(NamedTuple):
    """A component as the frame header describes it."""

    id: int
    sampling: int
    """Horizontal factor in the upper half of the byte, vertical in the lower."""
    table: int
    """Slot of its quantisation table."""


class JpegWalk:
    """The state after the segments taken so far."""

    def __init__(self) -> None:
        self.frame, self.precision, self.height, self.width = 0, 0, 0, 0
        """Marker of the frame header, 0 before it; bits; pixels."""
        self.components: list[Component] = []
        self.scans = 0
        self.complete = False
        """Whether the end marker was reached."""
        self.tidy = True
        """See `JpegInfo`, also for `own_tables`."""
        self.own_tables = True
        self._in_order = True
        self._left_out: list[list[int]] = []
        """Low bits still to come, by component and coefficient."""
        self._huffman_tables: set[int] = set()
        self._quantisation_tables: set[int] = set()

    @property
    def progressive(self) -> bool:
        """Whether scans may contain a part of the coefficients, or of their bits."""
        return self.frame in _PROGRESSIVE_FRAMES

    @property
    def all_scans(self) -> bool:
        """Whether every bit of every coefficient was sent, in an allowed order."""
        return self.scans > 0 and self._in_order and not any(map(any, self._left_out))

    @property
    def has_one_scan(self) -> bool:
        """Whether a sequential file's first scan has all components: no other may follow."""
        return not self.progressive and self.scans == 1 and self.all_scans

    def take(self, segment: Segment, data: bytes | memoryview) -> bool:
        """Advance by a segment of `data`; return False if libjpeg would give up at it."""
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
        """Check and keep a frame header, as `get_sof`."""
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
        """Check and note Huffman tables, as `get_dht`."""
        while len(body) > 16:
            number, values = body[0], sum(body[1:17])
            if number & ~_AC_TABLE not in _SLOTS or values > min(256, len(body) - 17):
                return False
            self._huffman_tables.add(number)
            body = body[17 + values :]
        return not body

    def _take_quantisation_tables(self, body: bytes) -> bool:
        """Check and note quantisation tables, as `get_dqt`."""
        while body:
            slot, size = body[0] & 15, 1 + COEFFICIENTS * (2 if body[0] >> 4 else 1)
            if slot not in _SLOTS or len(body) < size:
                return False
            self._quantisation_tables.add(slot)
            body = body[size:]
        return True

    def _take_scan(self, body: bytes) -> bool:
        """Check a scan header and note its bands, as `get_sos` and `start_pass_phuff_decoder`."""
        count = body[0] if body else 0
        if not self.frame or not 1 <= count <= 4 or len(body) != 4 + 2 * count:
            return False
        self.scans += 1
        band = body[-3:] if self.progressive else SEQUENTIAL_BAND
        self.tidy &= band == body[-3:]
        if self.progressive and not _is_valid_band(band, count):
            return False
        ids = [component.id for component in self.components]
        named = list(body[1:-3:2])
        # If components share a name or are in another order, libjpeg reads only some of them.
        self._in_order &= [name for name in ids if name in named] == named
        if not set(named) <= set(ids):
            return False
        for name, slots in zip(named, body[2:-3:2], strict=True):
            self._take_band(ids.index(name), slots, band)
        return True

    def _take_band(self, component: int, slots: int, band: bytes) -> None:
        """Note what a scan sends of a component; slots: of its two Huffman tables."""
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


def _is_valid_band(band: bytes, components: int) -> bool:
    """Return whether a progressive scan may send this band of that many components."""
    first, last, (before, after) = band[0], band[1], divmod(band[2], 16)
    alone = first <= last < COEFFICIENTS and components == 1 if first else last == 0
    return alone and after <= 13 and before in (0, after + 1)
