"""Images named in a text file."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from fastimae.loaders.errors import DataError
from fastimae.loaders.image_formats import is_image_name
from fastimae.loaders.items import Item, Source, shown

_BINARY = re.compile(rb"[\0-\x08\x0e-\x1f]")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_LONGEST_LINE = 1 << 16
"""Bytes. Paths have 4096 at most."""


_ENDS_PATH = re.compile(r"[\s,;|]")


def list_source(path: Path) -> Source:
    """Lines `path [label]`: paths relative to the list file, labels whole numbers.

    The rules, also told in docs/sources.md. Empty lines and those that start with # are passed
    over. A line that ends like the name of an image is a path. Else, if it ends with a space or tab
    and a whole number, that is the label. Else it is the path of an image under another name, but
    for a line that has an image's name and something else behind it: that is an error. All lines
    have a label, or none. Names need not be UTF-8.

    Raises:
        DataError: it is not a text file, or its lines are not like this.
        OSError: it cannot be read.
    """
    items: list[Item] = []
    labels: list[int | None] = []
    for number, text in _lines(path):
        where = f"SRC: {path}: line {number}"
        name, label = _split_line(where, text)
        if label is not None and not _is_image(name) and (path.parent / text).is_file():
            raise DataError(f"{where}: {shown(text)!r} is a file, and also a path with a label")
        items.append(Item(str(path.parent / name)))
        labels.append(label)
    labelled = len(labels) - labels.count(None)
    if 0 < labelled < len(labels):
        first = items[labels.index(None)].name
        raise DataError(
            f"SRC: {path} has a label on {labelled} of its {len(labels)} lines only, not on {first}"
        )
    if not labelled:
        return Source(kind="list file without labels", items=items)
    return Source(kind="list file, labels behind the paths", items=items, labels=labels)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Those that say something, with their numbers."""
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
    """The path, and the label if there is one. A path may have spaces.

    Raises `DataError` if it is an image's name with something else behind it.
    """
    if _is_image(line):
        return line, None
    name, *last = line.rsplit(maxsplit=1)
    label = last[0] if last and last[0].isdecimal() and len(last[0]) < 19 else None
    path = line if label is None else name
    if not _is_image(path) and (start := _image_at_start(path)):
        raise DataError(
            f"{where} has {shown(line[len(start) :].strip()[:40])!r} behind the path: a label is a "
            "whole number of 0 or more, with a space before it and nothing else in the line"
        )
    return path, None if label is None else int(label)


def _image_at_start(line: str) -> str:
    """What comes before a separator, if it is the name of an image; else nothing."""
    ends = (match.start() for match in _ENDS_PATH.finditer(line))
    return next((line[:end] for end in ends if _is_image(line[:end])), "")


def _is_image(path: str) -> bool:
    return is_image_name(posixpath.basename(path))
