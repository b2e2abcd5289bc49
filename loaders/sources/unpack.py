"""Unpacking of compressed tar files, which random access to their images requires."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from fastimae.loaders.errors import DataError
from fastimae.loaders.sources.tar_headers import BLOCK, is_header

_OPENERS: dict[bytes, Callable[[Path], BinaryIO]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
}
_ZSTD = b"\x28\xb5\x2f\xfd"
_DAMAGE = (OSError, EOFError, lzma.LZMAError, zlib.error)
"""What the openers raise for damaged data."""


def looks_like_tar(path: Path) -> bool:
    """Return whether a file's content is a tar archive, plain or compressed. Raises OSError."""
    with path.open("rb") as file:
        head = file.read(BLOCK)
    opener = _opener(head)
    if opener is None:
        return is_header(head)
    try:
        with opener(path) as packed:
            return is_header(packed.read(BLOCK))
    except _DAMAGE:
        return False


def unpack_if_compressed(path: Path, target: Path | None) -> tuple[Path | None, str]:
    """Return the file itself or, if it is compressed, `target` with its content; and any problem.

    A damaged file is unpacked as far as possible. For an unsupported compression the path is None.

    Raises:
        OSError: the file cannot be read.
        DataError: it is compressed, but there is no target or the disk is full.
    """
    with path.open("rb") as file:
        head = file.read(8)
    opener = _opener(head)
    if head.startswith(_ZSTD):
        return None, "compressed with zstd: unpack it first"
    if opener is None:
        return path, ""
    if target is None:
        raise DataError(
            f"SRC: {path} is compressed: unpack it, or convert it with fastimae-convert"
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as file:
            return target, _unpack(opener, path, file)
    except OSError as error:
        raise DataError(f"SRC: {path} cannot be unpacked to {target}: {error.strerror}") from error


def _unpack(opener: Callable[[Path], BinaryIO], path: Path, target: BinaryIO) -> str:
    """Copy all that can be unpacked; return why it ended early, or ""."""
    with opener(path) as packed:
        while True:
            try:
                # Not read(), which discards what it has read if the data ends early.
                chunk = packed.read1(1 << 20)
            except _DAMAGE as error:
                return f"the rest of this compressed file is lost: {error}"
            if not chunk:
                return ""
            target.write(chunk)


def _opener(head: bytes) -> Callable[[Path], BinaryIO] | None:
    return next((opener for magic, opener in _OPENERS.items() if head.startswith(magic)), None)
