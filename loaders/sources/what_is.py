"""The kind of data at a path, by its content; errors name the flag or command that takes it.

Names are not trusted, except for a missing or damaged .beton file.
"""

from __future__ import annotations

import codecs
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from fastimae.loaders.beton.layout import HEADER, VERSION
from fastimae.loaders.errors import DataError
from fastimae.loaders.images.limits import FORMATS
from fastimae.loaders.sources.tar_headers import BLOCK, is_header
from fastimae.loaders.sources.unpack import looks_like_tar

FOLDER, BETON, IMAGE = "a folder", "a .beton file", "an image"
TAR, PACKED_TAR, TEXT, OTHER = (
    "a tar file",
    "a compressed tar file",
    "a text file",
    "a file of another kind",
)
MISSING = "missing"

_SUFFIXES = (".beton", ".ffcv")
"""Suffixes of .beton files."""
_MOST_FIELDS = 1000


def what_is(path: str | Path) -> str:
    """Return one of the kinds above; OTHER also for pipes and for what cannot be read."""
    try:
        return _look(Path(path))
    except OSError:
        return OTHER


def is_beton(path: str | Path) -> bool:
    """Return whether a .beton file is meant: it is one, or damaged or missing but named so."""
    kind = what_is(path)
    return kind == BETON or (kind in (OTHER, MISSING) and Path(path).suffix in _SUFFIXES)


def check_is(
    path: str | Path, *wanted: str, flag: str = "", flags: Mapping[str, str] | None = None
) -> None:
    """Raise DataError if the data at a path is of another kind, and say what takes that kind.

    A missing path passes, and so does an unknown kind where a .beton file is wanted: its reader has
    the better error. A file that cannot be read is an error here.
    flag: the flag that gave the path. flags: the command's flags, by the kind that they take.
    """
    try:
        kind = _look(Path(path))
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"{flag and flag + ' '}{path}: cannot be read ({reason})") from error
    if kind in (*wanted, MISSING) or (BETON in wanted and kind == OTHER):
        return
    hints = ", or ".join(_suggestions(Path(path), kind, wanted, flags or {}))
    raise DataError(
        f"{flag and flag + ' '}{path} is {kind}, not {' or '.join(wanted)}"
        + (f": {hints}" if hints else "")
    )


def _look(path: Path) -> str:
    """Return the kind, as `what_is`. Raises OSError for what cannot be read."""
    if path.is_dir():
        return FOLDER
    if not path.is_file():
        return OTHER if path.exists() else MISSING
    with path.open("rb") as file:
        head = file.read(BLOCK)
    if _is_beton(head):
        return BETON
    if looks_like_tar(path):
        return TAR if is_header(head) else PACKED_TAR
    return IMAGE if _is_image(path) else TEXT if _is_text(head) else OTHER


def _suggestions(
    path: Path, kind: str, wanted: Sequence[str], flags: Mapping[str, str]
) -> list[str]:
    """List what the user can do instead."""
    it = "it"
    if kind == IMAGE:  # no flag takes a single image
        path, kind, it = path.parent, FOLDER, "the folder that contains it"
    if kind in wanted:
        return [f"give {it}"]
    given = [f"give {it} as {flags[kind]}"] if kind in flags else []
    if kind not in (FOLDER, TAR, PACKED_TAR, TEXT):
        return given
    made = f"fastimae-convert {shlex.quote(str(path))} OUT.beton makes a .beton file of {it}"
    return [*given, made + (" if it lists images" if kind == TEXT else "")]


def _is_beton(head: bytes) -> bool:
    if len(head) < HEADER.itemsize:
        return False
    header = np.frombuffer(head, HEADER, 1)[0]
    page = int(header["page_size"])
    return (
        header["version"] == VERSION
        and 0 < header["num_fields"] <= _MOST_FIELDS
        and page > 0
        and page & (page - 1) == 0
    )


def _is_image(path: Path) -> bool:
    try:
        with Image.open(path, formats=FORMATS):
            return True
    except Exception:  # Pillow raises a dozen types
        return False


def _is_text(head: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)  # a letter may be cut off at the end
    except UnicodeDecodeError:
        return False
    return bool(head) and not any(byte < 9 or 13 < byte < 32 for byte in head)
