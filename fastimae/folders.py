"""Where output goes: folders and files, tried out before anything is computed."""

from __future__ import annotations

import tempfile
from pathlib import Path

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


def cannot_write(path: Path, flag: str, error: OSError) -> FolderError:
    """The error to raise where `path` failed with `error`."""
    reason = error.strerror or str(error)
    if isinstance(error, FileExistsError | NotADirectoryError):
        in_the_way = next((p for p in (path, *path.parents) if p.exists()), path)
        reason = f"{in_the_way} is no folder"
    return FolderError(f"cannot write to {path} ({reason}): choose another {flag}")
