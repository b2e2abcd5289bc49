"""Where output goes: places tried out before anything is computed, files written whole."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

PARTIAL = ".partial"
"""Ends the name of a file that is being written, or was when its process was killed."""

_BLOCK = 4096
"""Bytes. A full disk takes an empty file, but not these."""


class FolderError(Exception):
    """Output cannot go where it was told to go. The message names the place and the flag."""


def prepare_folder(path: Path, flag: str = "--output_dir") -> None:
    """Make the folder if needed, and see whether it takes a file. Raises FolderError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        # Without a name: all ranks of a run do this at the same moment.
        with tempfile.TemporaryFile(dir=path) as file:
            file.write(bytes(_BLOCK))
    except OSError as error:
        raise cannot_write(path, flag, error) from error


def prepare_file(path: Path, flag: str) -> None:
    """The same for the folder of a file, which must not be a folder itself. Raises FolderError."""
    prepare_folder(path.parent, flag)
    if path.is_dir():
        raise FolderError(f"cannot write {path}, it is a folder: choose another {flag}")


@contextlib.contextmanager
def replacing(path: Path, mark: str = "") -> Iterator[Path]:
    """A name to write to; the file gets its own, `path`, once all of it is on the disk.

    A crash leaves the old file or the new one; an error the old one, and nothing beside it.
    mark: sets processes apart that may write the same file at once.
    """
    partial = path.with_name(f"{path.name}{mark}{PARTIAL}")
    try:
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def write_text(path: Path, text: str, mark: str = "") -> None:
    """Write a text file whole or not at all, see `replacing`."""
    with replacing(path, mark) as partial:
        partial.write_text(text, encoding="utf-8")


def cannot_write(path: Path, flag: str, error: OSError) -> FolderError:
    """The error to raise where `path` failed with `error`."""
    reason = error.strerror or str(error)
    if isinstance(error, FileExistsError | NotADirectoryError):
        in_the_way = next((p for p in (path, *path.parents) if p.exists()), path)
        reason = f"{in_the_way} is no folder"
    return FolderError(f"cannot write to {path} ({reason}): choose another {flag}")
