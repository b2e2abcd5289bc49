"""Images listed in a text file, with or without labels."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from fastimae.loaders.errors import DataError
from fastimae.loaders.image_location import ImageLocation, Source, printable
from fastimae.loaders.images.formats import is_image_name

_BINARY = re.compile(rb"[\0-\x08\x0e-\x1f]")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_LONGEST_LINE = 1 << 16
"""Bytes of a line; a path has at most 4096."""
_ENDS_PATH = re.compile(r"[\s,;|]")


def list_source(path: Path) -> Source:
    """Read lines `path [label]`: paths relative to the list file, labels whole numbers.

    The rules are also in docs/sources.md. Empty lines and those that start with # are ignored.

    - A line that ends like the name of an image is a path.
    - Else, if it ends with a space or tab and a whole number, that number is the label.
    - Else it is the path of an image with another extension; but anything else after an image's
      name is an error.

    Either all lines have a label, or none. Names need not be UTF-8.

    Raises:
        DataError: it is not a text file, or its lines break these rules.
        OSError: it cannot be read.
    """
    items: list[ImageLocation] = []
    labels: list[int | None] = []
    for number, text in _lines(path):
        where = f"SRC: {path}: line {number}"
        name, label = _split_line(where, text)
        if label is not None and not _is_image(name) and (path.parent / text).is_file():
            raise DataError(f"{where}: {printable(text)!r} is both a file and a path with a label")
        items.append(ImageLocation(str(path.parent / name)))
        labels.append(label)
    labelled = len(labels) - labels.count(None)
    if 0 < labelled < len(labels):
        first = items[labels.index(None)].name
        raise DataError(
            f"SRC: {path} has labels on only {labelled} of its {len(labels)} lines, not on {first}"
        )
    if not labelled:
        return Source(kind="list file without labels", items=items)
    return Source(kind="list file with labels", items=items, labels=labels)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines that are neither empty nor comments, with their numbers."""
    with path.open("rb") as file:
        number = 0
        while line := file.readline(_LONGEST_LINE):
            number += 1
            if _BINARY.search(line) or len(line) == _LONGEST_LINE:
                raise DataError(
                    f"SRC: {path} is neither a folder, a tar file nor a text file (UTF-8) that "
                    "lists images; unpack other archives first"
                )
            text = os.fsdecode(line.removeprefix(_BYTE_ORDER_MARK)).strip()
            if text and not text.startswith("#"):
                yield number, text


def _split_line(where: str, line: str) -> tuple[str, int | None]:
    """Split a line into path and label, if any. A path may have spaces.

    Raises `DataError` for an image's name followed by anything but a label.
    """
    if _is_image(line):
        return line, None
    name, *last = line.rsplit(maxsplit=1)
    label = last[0] if last and last[0].isdecimal() and len(last[0]) < 19 else None
    path = line if label is None else name
    if not _is_image(path) and (start := _image_at_start(path)):
        raise DataError(
            f"{where} has {printable(line[len(start) :].strip()[:40])!r} after the path: a label "
            "is a whole number of 0 or more, with a space before it and nothing else on the line"
        )
    return path, None if label is None else int(label)


def _image_at_start(line: str) -> str:
    """Return what comes before a separator if it is the name of an image, else ""."""
    ends = (match.start() for match in _ENDS_PATH.finditer(line))
    return next((line[:end] for end in ends if _is_image(line[:end])), "")


def _is_image(path: str) -> bool:
    return is_image_name(posixpath.basename(path))
