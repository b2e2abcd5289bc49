"""The members of a tar archive, read from its headers alone, safely even if they are damaged.

Python's `tarfile` trusts every number: a negative size sends it in circles, an absurd one makes it
read all of the file at once, and each release differs. This reader only moves forward, nothing is
longer than the rest of the archive, and names are bounded.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import NamedTuple

BLOCK = 512
_LONGEST_HEADER = 1 << 20
"""Bytes of a header with a long name or PAX records."""
_LONGEST_NAME = 4096
"""Characters of a name: the longest path on Linux."""
_PADDING = 16 << 20
"""Bytes after the end mark that are searched for data: the end mark would cut it off."""
HARD_LINK, FOLDER, _SPARSE = "a hard link", "a folder", "stored as a sparse file"
_KINDS = {
    **dict.fromkeys(b"\x0007", ""),
    ord("1"): HARD_LINK,
    ord("2"): "a symbolic link",
    ord("3"): "a device",
    ord("4"): "a device",
    ord("5"): FOLDER,
    ord("6"): "a named pipe",
    ord("S"): _SPARSE,
}
_FROM_ROOT = re.compile(r"(\.?/)*")
_WITHOUT_DATA = b"123456"


class TarDamage(Exception):
    """The rest of the archive is lost; the message says why."""


class Member(NamedTuple):
    """One member of an archive, as its headers describe it."""

    name: str
    offset: int
    """Position of its bytes, from the start of the file."""
    size: int
    kind: str
    """Empty for a regular file that is complete in the archive, else what it is instead."""
    target: str
    """The name that a link points to."""


def is_header(block: bytes) -> bool:
    """Return whether a tar archive may start with this block."""
    try:
        _check_sum(block)
    except TarDamage:
        return False
    return True


def read_members(fd: int, start: int, end: int) -> Iterator[Member]:
    """Yield the members of the archive at bytes `start` to `end` of a file.

    Raises:
        TarDamage: it cannot be read further.
        OSError: the file cannot be read.
    """
    if start == end:
        raise TarDamage("it is empty")
    extended: dict[str, str] = {}  # fields from headers that only extend the next one
    position = start
    while position < end:
        block = os.pread(fd, min(BLOCK, end - position), position)
        if block.count(0) == BLOCK:
            _expect_the_end(fd, position + BLOCK, end)
            return
        _check_sum(block)
        kind, position = block[156], position + BLOCK
        if kind in b"LKxXg":
            body, position = _read_extension(fd, block, position, end)
            extended |= _extension(kind, body)
            continue
        size = 0 if kind in _WITHOUT_DATA else _stored_size(block, extended)
        name = _name(block, extended)
        if len(name) > _LONGEST_NAME:
            raise TarDamage(f"a name of {len(name)} characters")
        position = position if kind != ord("S") else _skip_sparse_map(fd, block, position, end)
        _check_size(size, end - position, name)
        yield Member(name, position, size, _kind(kind, name, extended), _target(block, extended))
        extended, position = {}, _next_header(position, size)
    raise TarDamage("it ends without an end mark")


def _check_sum(block: bytes) -> None:
    if len(block) < BLOCK:
        raise TarDamage("it ends inside a header")
    # The sum counts its own field as spaces. Some old writers summed signed bytes.
    total = sum(block) - sum(block[148:156]) + 8 * ord(" ")
    digits = block[148:156].strip(b" \0")
    promised = -1 if digits.strip(b"01234567") else int(digits or b"0", 8)
    if promised != total and promised != total - 256 * sum(byte > 127 for byte in block):
        raise TarDamage("a header is missing or damaged")


def _number(field: bytes) -> int:
    """Parse octal digits or, for numbers too large for them, binary after a set bit."""
    if field[0] & 0x80:
        if field[0] & 0x40:
            raise TarDamage("a negative size")
        return int.from_bytes(bytes([field[0] & 0x3F]) + field[1:], "big")
    digits = field.partition(b"\0")[0].strip(b" ")
    if digits.strip(b"01234567"):
        raise TarDamage(f"{_text(digits)!r} where a number should be")
    return int(digits or b"0", 8)


def _stored_size(block: bytes, extended: dict[str, str]) -> int:
    if "size" not in extended:
        return _number(block[124:136])
    size = extended["size"]
    if not (size.isascii() and size.isdigit() and len(size) < 20):
        raise TarDamage(f"{size[:20]!r} where a size should be")
    return int(size)


def _check_size(size: int, left: int, name: str) -> None:
    if size > left:
        raise TarDamage(f"{name} should have {size} bytes, {max(0, left)} are left")


def _next_header(position: int, size: int) -> int:
    """Return the position after a member's data, which is padded to full blocks."""
    return position + -(-size // BLOCK) * BLOCK


def _read_extension(fd: int, block: bytes, position: int, end: int) -> tuple[bytes, int]:
    """Read the content of a header that extends the next; return it and the position after it."""
    size = _number(block[124:136])
    _check_size(size, min(end - position, _LONGEST_HEADER), "a header")
    return os.pread(fd, size, position), _next_header(position, size)


def _extension(kind: int, body: bytes) -> dict[str, str]:
    """Parse the fields that a header sets for the next member."""
    if kind == ord("L"):
        return {"path": _text(body)}
    if kind == ord("K"):
        return {"linkpath": _text(body)}
    # A global header ("g") holds only comments in practice.
    return _pax_records(body) if kind != ord("g") else {}


def _pax_records(body: bytes) -> dict[str, str]:
    """Parse records `LENGTH KEY=VALUE` with a newline; the length counts the full record."""
    records, position = {}, 0
    while position < len(body) and body[position]:
        digits = body[position : position + 8].partition(b" ")[0]
        length = int(digits) if digits.isdigit() else 0
        record = body[position : position + length]
        key, equals, value = record[len(digits) + 1 : -1].partition(b"=")
        if not equals or len(record) < length or record[-1:] != b"\n":
            raise TarDamage("a damaged PAX header")
        records[_text(key)] = _text(value)
        position += length
    return records


def _kind(kind: int, name: str, extended: dict[str, str]) -> str:
    if any(key.startswith("GNU.sparse.") for key in extended):
        return _SPARSE
    if kind == 0 and name.endswith("/"):  # how folders were stored before POSIX
        return FOLDER
    return _KINDS.get(kind, "of an unknown type")


def _name(block: bytes, extended: dict[str, str]) -> str:
    name = extended.get("GNU.sparse.name") or extended.get("path")
    if name is None:
        # The old GNU format stores other fields where POSIX has the prefix.
        prefix = _text(block[345:500]) if block[257:263] == b"ustar\0" else ""
        name = f"{prefix}/{_text(block[:100])}" if prefix else _text(block[:100])
    return plain_name(name)


def _target(block: bytes, extended: dict[str, str]) -> str:
    return plain_name(extended.get("linkpath") or _text(block[157:257]))


def plain_name(name: str) -> str:
    """Strip leading `./` and `/`, as tar does: `./a/1.jpg` and `/a/1.jpg` become a/1.jpg."""
    return name[_FROM_ROOT.match(name).end() :]


def _text(field: bytes) -> str:
    return os.fsdecode(field.partition(b"\0")[0])


def _skip_sparse_map(fd: int, block: bytes, position: int, end: int) -> int:
    """Skip the extra blocks of a GNU sparse file's map; return the position after them."""
    more = block[482]
    while more:
        _check_size(BLOCK, end - position, "the map of a sparse file")
        more, position = os.pread(fd, 1, position + 504)[0], position + BLOCK
    return position


def _expect_the_end(fd: int, position: int, end: int) -> None:
    """Check that only zeros follow an end mark, which would hide anything else."""
    for chunk in range(position, min(end, position + _PADDING), 1 << 20):
        if os.pread(fd, min(1 << 20, end - chunk), chunk).strip(b"\0"):
            raise TarDamage("there is more data after an end mark")
