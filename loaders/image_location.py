"""Where each image's bytes are: what sources pass to loaders, worker processes and the converter.

Also how reports name and count files.
"""

from __future__ import annotations

import dataclasses
import posixpath
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from fastimae.loaders.images.pixel_form import RGB8, PixelForm

LISTED = 20
"""Left-out files that are listed on a terminal, at most."""
_NAMED_KINDS = 5
"""Kinds of left-out files that are named, at most; the most frequent ones."""


class SkipImage(Exception):
    """An image that cannot be used; the message says why, in a few words for the report."""


def unreadable(error: OSError) -> str:
    """Return the reason to report for a file that the system cannot read."""
    return f"cannot be read: {error.strerror or error}"


def printable(name: str) -> str:
    """Return a file name as reports print it: on one line, in characters that terminals can print.

    A line break in it, or a byte that is not UTF-8, is written as Python's escape.
    """
    if name.isprintable():
        return name
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def counts(kinds: Counter[str]) -> str:
    """List kinds of files with their number, the most frequent first: "12 .seg.png, 3 .json"."""
    most = sorted(kinds.items(), key=lambda pair: (-pair[1], pair[0]))[:_NAMED_KINDS]
    named = ", ".join(f"{count} {printable(kind)}" for kind, count in most)
    return named + (", ..." if len(kinds) > _NAMED_KINDS else "")


def extension(name: str) -> str:
    """Return the file extension, by which files of other kinds are counted."""
    return posixpath.splitext(name)[1] or "without extension"


class ImageLocation(NamedTuple):
    """One image file: a file of its own, a part of a larger one, or bytes in memory."""

    path: str
    member: str = ""
    """Name inside an archive at `path`, for reports."""
    offset: int = 0
    size: int = -1
    """Number of bytes from `offset`; -1: to the end of the file."""
    inline: bytes | None = None
    """The bytes themselves, if they are not stored as an image file."""

    @property
    def is_file(self) -> bool:
        """Whether it is the file at `path`, not a part of it."""
        return not self.member and self.inline is None

    @property
    def name(self) -> str:
        """Its name in reports."""
        return printable(f"{self.path}:{self.member}" if self.member else self.path)

    def read(self) -> bytes:
        """Read the bytes of the image file.

        Raises:
            SkipImage: the file is missing, unreadable, empty, or shorter than `size`.
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
        # Opening a named pipe would wait forever.
        path = Path(self.path)
        if not path.is_file():
            raise SkipImage("not a file" if path.exists() else "no such file")
        with path.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


@dataclasses.dataclass(kw_only=True)
class Source:
    """All images of the data set that the user gave."""

    kind: str
    """The kind of data set that was recognised, in words, and the part of it that is used."""
    items: list[ImageLocation]
    labels: list[int] | None = None
    """The label of each item; None: no labels."""
    class_names: list[str] = dataclasses.field(default_factory=list)
    """The name of each label; empty where names are not known."""
    skipped: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    """Images left out while looking: name and reason."""
    others: Counter[str] = dataclasses.field(default_factory=Counter)
    """Number of files of other kinds, by extension."""
    notes: list[str] = dataclasses.field(default_factory=list)
    """What the user should know about how it was read."""
    form: PixelForm = RGB8
    """That of its images."""
