"""The names of the classes, stored in the `.beton` file itself.

They are a JSON list in which entry k names label k. It is after the last trailer, at a multiple of
8, and before the allocation table: other readers do not look there. The pointer to it follows the
record (record.py), whose checksum covers both. Little-endian:

    16  4 bytes  "FNM1"
    20  uint32   size of the list in bytes, UTF-8
    24  uint64   its position

All zeros mean that there is no list. Then the manifest beside the file may have the names: older
files keep them only there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastimae.loaders.beton.bands_field import starts_with_images
from fastimae.loaders.beton.record import RECORD_END, damaged_table

_MAGIC = b"FNM1"
_POINTER = np.dtype([("magic", "S4"), ("size", "<u4"), ("position", "<u8")])
_END = RECORD_END + _POINTER.itemsize


def manifest_path(path: Path) -> Path:
    """Return the path of a .beton file's manifest."""
    return path.with_name(path.name + ".json")


def names_block(names: Sequence[str]) -> bytes:
    """Return the bytes of the list; empty if there are no names."""
    return json.dumps(list(names)).encode() if names else b""


def with_names(head: bytes, block: bytes, position: int) -> bytes:
    """Return `head`, a file's header and descriptors, with a pointer to the list at `position`."""
    if not block:
        return head
    pointer = np.array((_MAGIC, len(block), position), _POINTER)
    return head[:RECORD_END] + pointer.tobytes() + head[_END:]


def find_names(path: Path, view: memoryview, first_byte: int, end: int) -> memoryview:
    """Return the bytes of a file's list, uncopied; empty if there is none.

    first_byte: end of the metadata; end: start of the allocation table. Raises `DataError` if the
    list is not between them.
    """
    if not starts_with_images(view):
        return view[:0]
    magic, size, position = np.frombuffer(view, _POINTER, 1, RECORD_END)[0].tolist()
    if magic != _MAGIC:
        return view[:0]
    if not first_byte <= position <= position + size <= end:
        raise damaged_table(path)
    return view[position : position + size]


def read_names(path: Path, block: memoryview, labels: NDArray[np.int64]) -> list[str]:
    """Return the name of each label, from the list or else the manifest; empty if not known.

    labels: int64 [N]. If one that is not negative has no name, the manifest is of another file, and
    is ignored. Raises `DataError` for a list that is not the one that was written.
    """
    if not block:
        return _names_of_manifest(path, labels) or []
    try:
        names = json.loads(bytes(block))
    except (ValueError, RecursionError):  # not UTF-8, or not JSON
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
