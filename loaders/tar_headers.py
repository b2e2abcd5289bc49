"""The members of a tar archive, read from its headers alone.

Not by `tarfile`, which believes every number: a negative size makes it go in circles, an absurd one
read the whole file at once, and each Python release differs. Here the reader only goes forward,
nothing is longer than what is left of the archive, and names are bounded.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import NamedTuple

BLOCK = 512
_LONGEST_HEADER = 1 << 20
"""Bytes of a header that holds a long name, or PAX records."""
_LONGEST_NAME = 4096
"""Letters; no file can be called longer on Linux."""
_PADDING = 16 << 20
"""So far behind the end mark is looked for data that it cuts off."""
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
    """What follows in this archive is lost; the message says why."""


class Member(NamedTuple):
    """What an archive says of one member."""

    name: str
    offset: int
    """Of its bytes, from the start of the file."""
    size: int
    kind: str
    """Empty: a file, whole in the archive. Else what it is instead."""
    target: str
    """Where a link leads."""


def is_header(block: bytes) -> bool:
    """Whether a tar archive may start with this block."""
    try:
        _check_sum(block)
    except TarDamage:
        return False
    return True


def read_members(fd: int, start: int, end: int) -> Iterator[Member]:
    """Yield the members of the archive in these bytes of a file.

    Raises:
        TarDamage: it cannot be read further.
        OSError: the file cannot be read.
    """
    if start == end:
        raise TarDamage("it is empty")
    said: dict[str, str] = {}  # by headers that only extend the next
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
            said |= _extension(kind, body)
            continue
        size = 0 if kind in _WITHOUT_DATA else _stored_size(block, said)
        name = _name(block, said)
        if len(name) > _LONGEST_NAME:
            raise TarDamage(f"a name of {len(name)} letters")
        position = position if kind != ord("S") else _behind_sparse_map(fd, block, position, end)
        _check_size(size, end - position, name)
        yield Member(name, position, size, _kind(kind, name, said), _target(block, said))
        said, position = {}, _behind(position, size)
    raise TarDamage("it ends without the mark of its end")


def _check_sum(block: bytes) -> None:
    if len(block) < BLOCK:
        raise TarDamage("it ends within a header")
    # The sum counts its own field as spaces. Some old writers summed signed bytes.
    total = sum(block) - sum(block[148:156]) + 8 * ord(" ")
    digits = block[148:156].strip(b" \0")
    promised = -1 if digits.strip(b"01234567") else int(digits or b"0", 8)
    if promised != total and promised != total - 256 * sum(byte > 127 for byte in block):
        raise TarDamage("there is no header where one should be, or a damaged one")


def _number(field: bytes) -> int:
    """Octal digits, or, if they do not suffice, binary after a set bit."""
    if field[0] & 0x80:
        if field[0] & 0x40:
            raise TarDamage("a negative size")
        return int.from_bytes(bytes([field[0] & 0x3F]) + field[1:], "big")
    digits = field.partition(b"\0")[0].strip(b" ")
    if digits.strip(b"01234567"):
        raise TarDamage(f"{_text(digits)!r} for a number")
    return int(digits or b"0", 8)


def _stored_size(block: bytes, said: dict[str, str]) -> int:
    if "size" not in said:
        return _number(block[124:136])
    if not (said["size"].isascii() and said["size"].isdigit() and len(said["size"]) < 20):
        raise TarDamage(f"{said['size'][:20]!r} for a size")
    return int(said["size"])


def _check_size(size: int, left: int, name: str) -> None:
    if size > left:
        raise TarDamage(f"{name} has {size} bytes, of which {max(0, left)} are there")


def _behind(position: int, size: int) -> int:
    """Members fill whole blocks."""
    return position + -(-size // BLOCK) * BLOCK


def _read_extension(fd: int, block: bytes, position: int, end: int) -> tuple[bytes, int]:
    """The content of a header that extends the next, and the position behind it."""
    size = _number(block[124:136])
    _check_size(size, min(end - position, _LONGEST_HEADER), "a header")
    return os.pread(fd, size, position), _behind(position, size)


def _extension(kind: int, body: bytes) -> dict[str, str]:
    """What a header says of the next member."""
    if kind == ord("L"):
        return {"path": _text(body)}
    if kind == ord("K"):
        return {"linkpath": _text(body)}
    # What is said of all members at once are remarks.
    return _pax_records(body) if kind != ord("g") else {}


def _pax_records(body: bytes) -> dict[str, str]:
    """Records `LENGTH KEY=VALUE` and an end of line, which the length counts, too."""
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


def _kind(kind: int, name: str, said: dict[str, str]) -> str:
    if any(key.startswith("GNU.sparse.") for key in said):
        return _SPARSE
    if kind == 0 and name.endswith("/"):  # as before POSIX
        return FOLDER
    return _KINDS.get(kind, "of an unknown type")


def _name(block: bytes, said: dict[str, str]) -> str:
    name = said.get("GNU.sparse.name") or said.get("path")
    if name is None:
        # Archives of GNU's own format have other things in the place of the prefix.
        prefix = _text(block[345:500]) if block[257:263] == b"ustar\0" else ""
        name = f"{prefix}/{_text(block[:100])}" if prefix else _text(block[:100])
    return plain_name(name)


def _target(block: bytes, said: dict[str, str]) -> str:
    return plain_name(said.get("linkpath") or _text(block[157:257]))


def plain_name(name: str) -> str:
    """`./a/1.jpg` and `/a/1.jpg` are a/1.jpg, as to tar."""
    return name[_FROM_ROOT.match(name).end() :]


def _text(field: bytes) -> str:
    return os.fsdecode(field.partition(b"\0")[0])


def _behind_sparse_map(fd: int, block: bytes, position: int, end: int) -> int:
    """The map of GNU's sparse files goes on in blocks of its own."""
    more = block[482]
    while more:
        _check_size(BLOCK, end - position, "the map of a sparse file")
        more, position = os.pread(fd, 1, position + 504)[0], position + BLOCK
    return position


def _expect_the_end(fd: int, position: int, end: int) -> None:
    """A block of zeros ends an archive; one in the middle hides all that follows."""
    for chunk in range(position, min(end, position + _PADDING), 1 << 20):
        if os.pread(fd, min(1 << 20, end - chunk), chunk).strip(b"\0"):
            raise TarDamage("there is more data behind a mark of its end")
