"""Entropy coding of JPEG files for `jpeg_writer`: tokens, Huffman tables, bits."""

from __future__ import annotations

import dataclasses
import functools
import io
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from PIL import Image

Table = tuple[int, int]
"""Class (0: DC, 1: AC) and slot of a Huffman table."""
Token = tuple[Table | None, int, int, int]
"""Table, symbol, the bits after it, and their number; without a table, only the bits."""
RESTART: Token = (None, 0, 0, -1)
_LONGEST_RUN = 0x7FFF


class Scan(NamedTuple):
    """A scan: components, coefficients Ss to Se in zigzag order, and their bits Ah and Al."""

    components: tuple[int, ...]
    first: int = 0
    last: int = 63
    high: int = 0
    low: int = 0


def size_and_bits(value: int) -> tuple[int, int, int]:
    """Return the size of a number, its bits, and the size again."""
    size = abs(value).bit_length()
    return size, value if value > 0 else value + (1 << size) - 1, size


@dataclasses.dataclass
class Band:
    """The AC coefficients of a scan, with the run of ended blocks that is still to be written."""

    scan: Scan
    table: Table
    runs: bool
    ended: int = 0
    corrections: list[Token] = dataclasses.field(default_factory=list)

    def encode(self, block: list[int]) -> Iterator[Token]:
        """Write coefficients whose bits are sent for the first time."""
        zeros = 0
        for k in range(max(1, self.scan.first), self.scan.last + 1):
            magnitude = abs(block[k]) >> self.scan.low
            if not magnitude:
                zeros += 1
                continue
            yield from self.end_run()
            yield from [(self.table, 0xF0, 0, 0)] * (zeros // 16)
            size, bits, _ = size_and_bits(magnitude if block[k] > 0 else -magnitude)
            yield self.table, zeros % 16 << 4 | size, bits, size
            zeros = 0
        if zeros:
            yield from self._end_block([])

    def refine(self, block: list[int]) -> Iterator[Token]:
        """Write another bit of each coefficient."""
        band = range(self.scan.first, self.scan.last + 1)
        magnitudes = {k: abs(block[k]) >> self.scan.low for k in band}
        last_new = max((k for k in band if magnitudes[k] == 1), default=0)
        zeros, corrections = 0, []
        for k in band:
            if not magnitudes[k]:
                zeros += 1
                continue
            while zeros > 15 and k <= last_new:
                yield from self.end_run()
                yield self.table, 0xF0, 0, 0
                yield from corrections
                zeros, corrections = zeros - 16, []
            if magnitudes[k] > 1:
                corrections.append((None, 0, magnitudes[k] & 1, 1))
                continue
            yield from self.end_run()
            yield self.table, zeros << 4 | 1, int(block[k] > 0), 1
            yield from corrections
            zeros, corrections = 0, []
        if zeros or corrections:
            yield from self._end_block(corrections)

    def _end_block(self, corrections: list[Token]) -> Iterator[Token]:
        self.ended += 1
        self.corrections += corrections
        if not self.runs or self.ended == _LONGEST_RUN or len(self.corrections) > 900:
            yield from self.end_run()

    def end_run(self) -> Iterator[Token]:
        if self.ended:
            size = self.ended.bit_length() - 1
            yield self.table, size << 4, self.ended - (1 << size), size
        yield from self.corrections
        self.ended, self.corrections = 0, []


class Code(NamedTuple):
    """A Huffman table as stored in the file, and the code of each symbol as a string of bits."""

    definition: tuple[bytes, bytes]
    """The number of codes of each length, and their symbols."""
    bits: dict[int, str]


Codes = dict[Table, Code]


def make_codes(tokens: Iterable[Token], own: bool, seed: int) -> Codes:
    """Make the tables that these tokens need: the standard's or our own."""
    symbols: defaultdict[Table, Counter[int]] = defaultdict(Counter)
    for table, symbol, *_ in tokens:
        if table is not None:
            symbols[table][symbol] += 1
    if not own:
        return {table: standard()[table[0], min(1, table[1])] for table in symbols}
    rng = random.Random(seed)
    return {
        table: _own([symbol for symbol, _ in counts.most_common()], rng.randrange(5))
        for table, counts in symbols.items()
    }


def _own(symbols: list[int], short: int) -> Code:
    """Make codes of 1, 2, 3 ... bits for the first symbols, and of equal length for the others."""
    short = min(short, len(symbols) - 1)
    rest = len(symbols) - short
    counts = bytearray(16)
    counts[:short] = b"\1" * short
    counts[short + rest.bit_length() - 1] += rest
    return _code(bytes(counts), bytes(symbols))


def _code(counts: bytes, symbols: bytes) -> Code:
    bits, code, position = {}, 0, 0
    for length, count in enumerate(counts, 1):
        for symbol in symbols[position : position + count]:
            bits[symbol] = f"{code:0{length}b}"
            code += 1
        position += count
        code <<= 1
    return Code((counts, symbols), bits)


@functools.cache
def standard() -> Codes:
    """Return the tables of the standard's Annex K, as libjpeg writes them."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG")
    data, codes = file.getvalue(), {}
    for piece in data.split(b"\xff\xc4")[1:]:
        length, which = int.from_bytes(piece[:2]), piece[2]
        codes[which >> 4, which & 15] = _code(piece[3:19], piece[19:length])
    return codes


def pack(tokens: Iterable[Token], codes: Codes) -> bytes:
    """Pack the bytes of a scan, with its restart markers."""
    data, bits, restarts = [], [], 0
    for token in [*tokens, RESTART]:
        if token is not RESTART:
            table, symbol, value, count = token
            bits.append(codes[table].bits[symbol] if table else "")
            bits.append(f"{value:0{count}b}" if count else "")
            continue
        text = "".join(bits)
        text += "1" * (-len(text) % 8)
        packed = int(text or "0", 2).to_bytes(len(text) // 8)
        data += [packed.replace(b"\xff", b"\xff\0"), bytes([0xFF, 0xD0 + restarts % 8])]
        bits, restarts = [], restarts + 1
    return b"".join(data[:-1])
