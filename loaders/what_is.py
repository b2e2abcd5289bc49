"""What lies at a path, by a look at it and not by its name, and what takes it: for errors where
something else was meant."""

from __future__ import annotations

import codecs
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from fastimae.loaders.beton_format import HEADER, VERSION
from fastimae.loaders.errors import DataError
from fastimae.loaders.limits import FORMATS
from fastimae.loaders.tar_headers import BLOCK, is_header
from fastimae.loaders.unpack import looks_like_tar

FOLDER, BETON, IMAGE = "a folder", "a .beton file", "an image"
TAR, PACKED_TAR, TEXT, OTHER = (
    "a tar file",
    "a compressed tar file",
    "a text file",
    "a file of another kind",
)
MISSING = "missing"

_SUFFIXES = (".beton", ".ffcv")
"""How such files are called."""
_MOST_FIELDS = 1000


def what_is(path: str | Path) -> str:
    """One of the above; OTHER also for pipes and what cannot be read."""
    try:
        return _look(Path(path))
    except OSError:
        return OTHER


def is_beton(path: str | Path) -> bool:
    """Whether a .beton file is meant: it is one, or called so and nothing else, as a file may be
    damaged, or gone."""
    kind = what_is(path)
    return kind == BETON or (kind in (OTHER, MISSING) and Path(path).suffix in _SUFFIXES)


def check_is(
    path: str | Path, *wanted: str, flag: str = "", flags: Mapping[str, str] | None = None
) -> None:
    """Raise DataError where something else lies at a path, and say what takes that.

    What is missing, or of no known kind where a .beton file is wanted, is for its reader to refuse;
    what cannot be read is no other kind, and refused here as what it is.
    flag: where the path came from. flags: of the command at hand, by what they take.
    """
    try:
        kind = _look(Path(path))
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"{flag and flag + ' '}{path}: cannot be read ({reason})") from error
    if kind in (*wanted, MISSING) or (BETON in wanted and kind == OTHER):
        return
    ways = "".join(f", or {way}" for way in _ways(Path(path), kind, wanted, flags or {}))
    raise DataError(
        f"{flag and flag + ' '}{path} is {kind}, not {' or '.join(wanted)}"
        + ways.replace(", or", ":", 1)
    )


def _look(path: Path) -> str:
    """As `what_is`. Raises OSError for what cannot be read."""
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


def _ways(path: Path, kind: str, wanted: Sequence[str], flags: Mapping[str, str]) -> list[str]:
    """What the user can do with it."""
    it = "it"
    if kind == IMAGE:  # nothing takes one alone
        path, kind, it = path.parent, FOLDER, "the folder that it lies in"
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
