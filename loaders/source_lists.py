"""Images named in a text file."""

from __future__ import annotations

import os
import re
from pathlib import Path

from fastimae.loaders.errors import DataError
from fastimae.loaders.items import Item, Source

_BINARY = re.compile(rb"[\0-\x08\x0e-\x1f]")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_LONGEST_LINE = 1 << 16
"""Bytes. Paths have 4096 at most."""


def list_source(path: Path) -> Source:
    """Lines `path [label]`: paths relative to the list file, labels whole numbers.

    Empty lines and those that start with # are passed over. Names need not be UTF-8.

    Raises:
        DataError: it is not a text file, or only some lines have a label.
        OSError: it cannot be read.
    """
    items: list[Item] = []
    labels: list[int] = []
    with path.open("rb") as file:
        while line := file.readline(_LONGEST_LINE):
            if _BINARY.search(line) or len(line) == _LONGEST_LINE:
                raise DataError(
                    f"SRC: {path} is neither a folder, a tar file nor a text file (UTF-8) that "
                    "lists images; unpack other archives first"
                )
            text = os.fsdecode(line.removeprefix(_BYTE_ORDER_MARK)).strip()
            if text and not text.startswith("#"):
                name, label = _split_line(text)
                items.append(Item(str(path.parent / name)))
                labels += label
    if labels and len(labels) < len(items):
        raise DataError(f"SRC: {path} has a label on {len(labels)} of its {len(items)} lines only")
    return Source(kind="list file", items=items, labels=labels or None)


def _split_line(line: str) -> tuple[str, list[int]]:
    """The path, and the label if there is one. A path may have spaces."""
    name, *label = line.rsplit(maxsplit=1)
    if label and label[0].isdecimal() and len(label[0]) < 19:
        return name, [int(label[0])]
    return line, []
