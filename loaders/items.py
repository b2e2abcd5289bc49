"""Where one image's bytes lie: the currency between sources, worker processes and the converter."""

from __future__ import annotations

import dataclasses
import posixpath
from collections import Counter
from pathlib import Path
from typing import NamedTuple

LISTED = 20
"""Of the files left out, on a terminal."""
_NAMED_KINDS = 5
"""Of the kinds of files left out; the most frequent."""


class SkipImage(Exception):
    """This image cannot be used; the message says why, in a few words for the report."""


def unreadable(error: OSError) -> str:
    """The reason to give for what the system cannot read."""
    return f"cannot be read: {error.strerror or error}"


def shown(name: str) -> str:
    """A file name as a report shows it: on one line, and with letters that any terminal can print.

    A line break in it, or a byte that is not UTF-8, is written as Python would.
    """
    if name.isprintable():
        return name
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def counts(kinds: Counter[str]) -> str:
    """12 .seg.png, 3 .json."""
    most = sorted(kinds.items(), key=lambda pair: (-pair[1], pair[0]))[:_NAMED_KINDS]
    named = ", ".join(f"{count} {shown(kind)}" for kind, count in most)
    return named + (", ..." if len(kinds) > _NAMED_KINDS else "")


def extension(name: str) -> str:
    """What files of other kinds are counted by."""
    return posixpath.splitext(name)[1] or "without extension"


class Item(NamedTuple):
    """One image file: a whole file, a stretch of a larger one, or bytes already in memory."""

    path: str
    member: str = ""
    """Name inside an archive at `path`, for reports."""
    offset: int = 0
    size: int = -1
    """Bytes from `offset` on; -1: to the end of the file."""
    inline: bytes | None = None
    """The bytes themselves, where no image file holds them."""

    @property
    def is_file(self) -> bool:
        """Whether it is the whole of the file at `path`."""
        return not self.member and self.inline is None

    @property
    def name(self) -> str:
        """What a report calls it."""
        return shown(f"{self.path}:{self.member}" if self.member else self.path)

    def read(self) -> bytes:
        """The bytes of the image file.

        Raises:
            SkipImage: the file is missing, unreadable or shorter than promised.
        """
        if self.inline is not None:
            return self.inline
        try:
            data = self._read_file()
        except OSError as error:
            raise SkipImage(unreadable(error)) from error
        if not data:
            raise SkipImage("empty file")
        if 0 <= self.size != len(data):
            raise SkipImage(f"cut short: {len(data)} of {self.size} bytes")
        return data

    def _read_file(self) -> bytes:
        # Opening a named pipe would wait for ever.
        path = Path(self.path)
        if not path.is_file():
            raise SkipImage("not a file" if path.exists() else "no such file")
        with path.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


@dataclasses.dataclass(kw_only=True)
class Source:
    """All images found in what the user gave."""

    kind: str
    """What it was taken for, in words."""
    items: list[Item]
    labels: list[int] | None = None
    """One for each item; None: no labels."""
    class_names: list[str] = dataclasses.field(default_factory=list)
    """The name of each label, where names are known."""
    skipped: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    """Images left out while looking: name and reason."""
    others: Counter[str] = dataclasses.field(default_factory=Counter)
    """How many files of other kinds there are, by extension."""
    notes: list[str] = dataclasses.field(default_factory=list)
    """What the user should know about how it was read."""
