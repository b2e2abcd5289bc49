"""The names of the classes, in the `.beton` file itself.

A JSON list in which position k names label k, behind the last trailer, at a multiple of 8, and
before the allocation table: other readers do not look there. It is found through what follows the
record (beton_record.py), whose checksum covers both. Little-endian:

    16  4 bytes  "FNM1"
    20  uint32   bytes of the list, UTF-8
    24  uint64   its position

All zeros mean that there is none. Then the manifest beside the file may have the names: files from
before that kept them there alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastimae.loaders.beton_format import IMAGE_FIELD
from fastimae.loaders.beton_record import RECORD_END, TYPE_AT, damaged_table

_MAGIC = b"FNM1"
_POINTER = np.dtype([("magic", "S4"), ("size", "<u4"), ("position", "<u8")])
_END = RECORD_END + _POINTER.itemsize


def manifest_path(path: Path) -> Path:
    """Where the manifest of a .beton file lies."""
    return path.with_name(path.name + ".json")


def names_block(names: Sequence[str]) -> bytes:
    """The list as it is written; empty where there are no names."""
    return json.dumps(list(names)).encode() if names else b""


def with_names(head: bytes, block: bytes, position: int) -> bytes:
    """`head`, the header and descriptors of a file, leading to the block at `position`."""
    if not block:
        return head
    pointer = np.array((_MAGIC, len(block), position), _POINTER)
    return head[:RECORD_END] + pointer.tobytes() + head[_END:]


def find_names(path: Path, view: memoryview, first_byte: int, end: int) -> memoryview:
    """The block of a file, uncopied; empty where there is none.

    first_byte: where the metadata ends; end: where the allocation table begins. Raises `DataError`
    if it does not lie between them.
    """
    if view[TYPE_AT] != IMAGE_FIELD:
        return view[:0]
    magic, size, position = np.frombuffer(view, _POINTER, 1, RECORD_END)[0].tolist()
    if magic != _MAGIC:
        return view[:0]
    if not first_byte <= position <= position + size <= end:
        raise damaged_table(path)
    return view[position : position + size]


def read_names(path: Path, block: memoryview, labels: NDArray[np.int64]) -> list[str]:
    """The name of each label, from the block or else from the manifest; empty if not known.

    labels: int64 [N], all must have a name or be negative, or the manifest is of another file.
    Raises `DataError` for a block that is not what was written.
    """
    if not block:
        return _names_of_manifest(path, labels) or []
    try:
        names = json.loads(bytes(block))
    except (ValueError, RecursionError):  # not UTF-8, or no JSON
        raise damaged_table(path) from None
    if not _fits(names, labels):
        raise damaged_table(path)
    return names


def _names_of_manifest(path: Path, labels: NDArray[np.int64]) -> list[str] | None:
    try:
        manifest = json.loads(manifest_path(path).read_text())
        names = manifest["class_names"]
        same = manifest.get("samples", len(labels)) == len(labels)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return names if same and _fits(names, labels) else None


def _fits(names: Any, labels: NDArray[np.int64]) -> bool:
    known = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return known and int(labels.max()) < len(names)
