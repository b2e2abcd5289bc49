"""A writer of JPEG files of every kind that the standard allows, and of some that it does not.

The pictures are random quantised coefficients: noise, but the same noise for every decoder. `write`
follows a `Spec`, valid or not; `jpeg_kinds` draws Specs.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Literal

import numpy as np
from jpeg_entropy import RESTART, Band, Codes, Scan, Table, Token, make_codes, pack, size_and_bits
from numpy.typing import NDArray

BASELINE, EXTENDED, PROGRESSIVE = 0xC0, 0xC1, 0xC2
_SOI, _EOI = b"\xff\xd8", b"\xff\xd9"
_DHT, _SOS, _DQT, _DRI = 0xC4, 0xDA, 0xDB, 0xDD


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spec:
    """The description of a file; by default an ordinary small gray one."""

    height: int = 20
    width: int = 30
    sampling: tuple[tuple[int, int], ...] = ((1, 1),)
    """(horizontal, vertical) of each component."""
    frame: int = BASELINE
    precision: int = 8
    scans: tuple[Scan, ...] = (Scan((0,)),)
    sent: int | None = None
    """The number of scans in the file; None: all."""
    ids: bytes = b"\1\2\3\4"
    slots: tuple[int, ...] = (0, 1, 1, 1)
    """Each component's slot of Huffman tables; `slot % 2` is that of its quantisation table."""
    huffman: Literal["own", "standard", "none"] = "own"
    """none: no tables in the file; the standard ones apply."""
    between: bool = False
    """Whether each scan is preceded by its own Huffman and quantisation tables."""
    defined: frozenset[int] = frozenset(range(4))
    """Slots of Huffman tables that are written if used."""
    quantisation: Literal[8, 16] | None = 8
    """Bits of the quantisation steps; None: no tables."""
    restart: int = 0
    """MCUs between restarts."""
    headers: tuple[bytes, ...] = ()
    """Segments after SOI, verbatim."""
    odd: tuple[tuple[int, bytes], ...] = ()
    """Bytes to insert verbatim before the segment of that number."""
    end: bytes = _EOI
    seed: int = 0
    """Seed of the coefficients, the tables and the quantisation steps."""


def segment(marker: int, body: bytes, length: int | None = None) -> bytes:
    """Make a segment, with a length that may be wrong."""
    count = len(body) + 2 if length is None else length
    return bytes([0xFF, marker]) + count.to_bytes(2) + body


JFIF = segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0")


def adobe(transform: int) -> bytes:
    """Make Adobe's segment: 0 means RGB or CMYK, 1 YCbCr, 2 YCCK."""
    return segment(0xEE, b"Adobe\0\x64\0\0\0\0" + bytes([transform]))


def write(spec: Spec) -> bytes:
    """Write the file that a `Spec` describes."""
    scans = spec.scans[: spec.sent]
    tokens = [list(_tokens(spec, scan)) for scan in scans]
    own = spec.huffman == "own"
    codes = make_codes(itertools.chain(*tokens), own, spec.seed)
    pieces = [_SOI, *spec.headers]
    if not spec.between:
        pieces += _tables(spec, codes, set(range(4)), set(codes))
    pieces.append(_frame(spec))
    if spec.restart:
        pieces.append(segment(_DRI, spec.restart.to_bytes(2)))
    for number, (scan, its_tokens) in enumerate(zip(scans, tokens, strict=True)):
        if spec.between:
            codes = make_codes(its_tokens, own, spec.seed + number)
            steps = {spec.slots[i] % 2 for i in scan.components}
            pieces += _tables(spec, codes, steps, set(codes))
        pieces.append(_scan_header(spec, scan) + pack(its_tokens, codes))
    pieces.append(spec.end)
    for position, odd in spec.odd:
        pieces.insert(1 + position % (len(pieces) - 1), odd)
    return b"".join(pieces)


def coefficients(spec: Spec) -> list[NDArray[np.int64]]:
    """Draw [rows, columns, 64] in zigzag order for each component, padded to full MCUs."""
    rng = np.random.default_rng(spec.seed)
    wide, high = (max(factors) for factors in zip(*spec.sampling, strict=True))
    mcu_rows, mcu_columns = -(-spec.height // (8 * high)), -(-spec.width // (8 * wide))
    planes = []
    for h, v in spec.sampling:
        shape = mcu_rows * v, mcu_columns * h, 64
        strength = 40 * np.exp(-np.arange(64) / rng.uniform(2, 20))
        plane = rng.normal(0, strength, shape) * (rng.random(shape) < rng.uniform(0.05, 0.6))
        plane[rng.random(shape[:2]) < 0.3, 1:] = 0
        planes.append(np.clip(np.rint(plane), -1000, 1000).astype(np.int64))
    return planes


def steps_of(spec: Spec, slot: int) -> NDArray[np.int64]:
    """Return a quantisation table, [64] in zigzag order."""
    return np.random.default_rng((spec.seed, slot)).integers(1, 12, 64)


def _tables(spec: Spec, codes: Codes, steps: set[int], tables: set[Table]) -> list[bytes]:
    """Make the segments of the quantisation and Huffman tables that the file should have."""
    pieces = []
    for slot in sorted(steps & {slot % 2 for slot in spec.slots[: len(spec.sampling)]}):
        if spec.quantisation:
            wide = spec.quantisation == 16
            body = steps_of(spec, slot).astype(">u2" if wide else "u1").tobytes()
            pieces.append(segment(_DQT, bytes([wide << 4 | slot]) + body))
    for kind, slot in sorted(tables):
        if spec.huffman != "none" and slot in spec.defined:
            counts, symbols = codes[kind, slot].definition
            pieces.append(segment(_DHT, bytes([kind << 4 | slot]) + counts + symbols))
    return pieces


def _frame(spec: Spec) -> bytes:
    head = spec.precision, *spec.height.to_bytes(2), *spec.width.to_bytes(2), len(spec.sampling)
    body = bytes(head)
    for i, (h, v) in enumerate(spec.sampling):
        body += bytes([spec.ids[i], h << 4 | v, spec.slots[i] % 2])
    return segment(spec.frame, body)


def _scan_header(spec: Spec, scan: Scan) -> bytes:
    body = bytes([len(scan.components)])
    for i in scan.components:
        body += bytes([spec.ids[i], spec.slots[i] << 4 | spec.slots[i]])
    return segment(_SOS, body + bytes([scan.first, scan.last, scan.high << 4 | scan.low]))


def _mcus(spec: Spec, scan: Scan) -> Iterator[list[tuple[int, list[int]]]]:
    """Yield the (component, block) pairs of each MCU, in order."""
    planes = [plane.tolist() for plane in coefficients(spec)]
    wide, high = (max(factors) for factors in zip(*spec.sampling, strict=True))
    if len(scan.components) == 1:
        (i,) = scan.components
        h, v = spec.sampling[i]
        columns = -(-spec.width * h // (8 * wide))
        for row in planes[i][: -(-spec.height * v // (8 * high))]:
            yield from ([(i, block)] for block in row[:columns])
        return
    for y in range(-(-spec.height // (8 * high))):
        for x in range(-(-spec.width // (8 * wide))):
            yield [
                (i, planes[i][y * v + row][x * h + column])
                for i in scan.components
                for h, v in [spec.sampling[i]]
                for row in range(v)
                for column in range(h)
            ]


def _tokens(spec: Spec, scan: Scan) -> Iterator[Token]:
    """Encode a scan as tokens."""
    predicted, band = [0] * 4, None
    for number, mcu in enumerate(_mcus(spec, scan)):
        if number == 0 or (spec.restart and number % spec.restart == 0):
            if number:
                yield from band.end_run()
                yield RESTART
            predicted = [0] * 4
            # The standard tables have no code for the end of several blocks.
            runs = spec.huffman == "own" and spec.frame == PROGRESSIVE
            band = Band(scan, (1, spec.slots[scan.components[0]]), runs)
        for i, block in mcu:
            if scan.first == 0 and scan.high:
                yield None, 0, block[0] >> scan.low & 1, 1
            elif scan.first == 0:
                value = block[0] >> scan.low
                yield (0, spec.slots[i]), *size_and_bits(value - predicted[i])
                predicted[i] = value
            band.table = 1, spec.slots[i]
            if scan.last:
                yield from band.refine(block) if scan.high else band.encode(block)
    yield from band.end_run()
