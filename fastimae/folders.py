"""Output folders and files: check first that they are writable; replace files atomically."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

PARTIAL = ".partial"
"""Suffix of a file that is being written, or was when its process was killed."""

_BLOCK = 4096
"""Bytes to write as a test: a full disk accepts an empty file, but not these."""


class FolderError(Exception):
    """Output cannot be written where it should go. The message names the path and the flag."""


def prepare_folder(path: Path, flag: str = "--output_dir") -> None:
    """Make the folder if needed, and check that files can be written. Raises FolderError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        # Unnamed, as all ranks of a run do this at the same time.
        with tempfile.TemporaryFile(dir=path) as file:
            file.write(bytes(_BLOCK))
    except OSError as error:
        raise cannot_write(path, flag, error) from error


@contextlib.contextmanager
def new_folder(path: Path, flag: str = "--output_dir") -> Iterator[None]:
    """Prepare the folder for the block; afterwards remove what was made for it and is still empty.

    So a command that fails at once leaves no folder, nor the ones above it. Raises FolderError.
    """
    try:
        made = [folder for folder in (path, *path.parents) if not folder.exists()]
    except OSError as error:
        raise cannot_write(path, flag, error) from error
    try:
        prepare_folder(path, flag)
        yield
    finally:
        for folder in made:
            with contextlib.suppress(OSError):  # not empty, or never made
                folder.rmdir()


def prepare_file(path: Path, flag: str) -> None:
    """Prepare the folder of a file, which must not be a folder itself. Raises FolderError."""
    prepare_folder(path.parent, flag)
    check_no_folder(path, flag)


def check_no_folder(path: Path, flag: str) -> None:
    """Raise FolderError if a file to write is a folder."""
    if path.is_dir():
        raise FolderError(f"cannot write {path}, which is a folder: choose another {flag}")


@contextlib.contextmanager
def replacing(path: Path, mark: str = "") -> Iterator[Path]:
    """Replace the file `path` atomically: yield a temporary path to write to, then rename it.

    A crash leaves the old file or the new one. An error leaves the old one, and removes the
    temporary file. The umask decides who may read the file, even if a library makes it private.
    mark: distinguishes processes that may write the same file at once.
    """
    partial = path.with_name(f"{path.name}{mark}{PARTIAL}")
    try:
        partial.unlink(missing_ok=True)
        partial.touch()
        mode = partial.stat().st_mode
        yield partial
        if partial.stat().st_mode != mode:  # as safetensors does
            partial.chmod(mode)
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def write_text(path: Path, text: str, mark: str = "") -> None:
    """Write a text file atomically, see `replacing`. Errors name the file, as on a full disk."""
    try:
        with replacing(path, mark) as partial:
            partial.write_text(text, encoding="utf-8")
    except OSError as error:
        error.filename = str(path)
        raise


def cannot_write(path: Path, flag: str, error: OSError) -> FolderError:
    """Return the error to raise for an OSError on `path`."""
    reason = error.strerror or str(error)
    if isinstance(error, FileExistsError | NotADirectoryError):
        in_the_way = next((p for p in (path, *path.parents) if p.exists()), path)
        reason = f"{in_the_way} is not a folder"
    return FolderError(f"cannot write to {path} ({reason}): choose another {flag}")
