"""Locks for output: one writer at a time. The system releases them however their process ends.

A lock is an open file, `.fastimae.lock` in a folder or NAME.lock beside a file, and names its
holder. It is removed afterwards; one that a killed process left behind is free.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from fastimae.folders import FolderError, cannot_write, check_no_folder, new_folder
from fastimae.log import log

LOCK = ".fastimae.lock"
_HELD: set[int] = set()
"""Descriptors of this process's locks."""


class InUse(FolderError):
    """Another process writes there. The message names it."""


@contextlib.contextmanager
def folder_to_write(path: Path, flag: str = "--output_dir") -> Iterator[None]:
    """Make a folder, check that it is writable, and lock it during the block.

    New folders that are still empty at the end, as after a run that fails at once, are removed.
    Raises FolderError if it cannot be written, InUse if another process has locked it.
    """
    with new_folder(path, flag), _lock(path / LOCK, path, flag):
        yield


@contextlib.contextmanager
def file_to_write(path: Path, flag: str = "OUT") -> Iterator[None]:
    """Lock a file during the block; its folder is made and checked, see `new_folder`."""
    with new_folder(path.parent, flag):
        check_no_folder(path, flag)
        with _lock(path.with_name(f"{path.name}.lock"), path, flag):
            yield


def check_free(folder: Path, flag: str = "--output_dir") -> None:
    """Raise InUse if another process writes to the folder."""
    if (folder / LOCK).exists():
        with _lock(folder / LOCK, folder, flag):
            pass


@contextlib.contextmanager
def _lock(file: Path, target: Path, flag: str) -> Iterator[None]:
    try:
        descriptor = _acquire(file)
    except BlockingIOError:
        raise InUse(
            f"{target} is in use by {_holder(file)}: wait for it, stop it, or choose another {flag}"
        ) from None
    except OSError as error:
        raise cannot_write(file, flag, error) from error
    try:
        yield
    finally:
        if descriptor in _HELD:  # not in a forked process: it has closed it
            _release(descriptor, file)


def _acquire(file: Path) -> int | None:
    """Return a descriptor that holds the lock; None if the file system has no locks."""
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise
        except OSError as error:
            os.close(descriptor)
            file.unlink(missing_ok=True)
            log.info("%s: no lock (%s): make sure that no other process writes here",
                     file.parent, error.strerror)  # fmt: skip
            return None
        if _is_current(file, descriptor):
            _HELD.add(descriptor)
            os.ftruncate(descriptor, 0)
            os.write(descriptor, json.dumps(_this_process()).encode())
            return descriptor
        os.close(descriptor)  # its holder removed the file before we locked it


def _release(descriptor: int, file: Path) -> None:
    _HELD.discard(descriptor)
    with contextlib.suppress(OSError):
        if _is_current(file, descriptor):
            file.unlink()
    os.close(descriptor)


def _is_current(file: Path, descriptor: int) -> bool:
    """Return whether the path still names the open file: it may have been replaced."""
    try:
        return os.path.samestat(file.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _this_process() -> dict[str, object]:
    return {
        "program": Path(sys.argv[0].removesuffix("/__main__.py")).name or "python",
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %z"),
    }


def _holder(file: Path) -> str:
    """Describe the holder of the lock, as far as the file names it."""
    try:
        return "{program} (process {pid} on {host}, since {since})".format(
            **json.loads(file.read_text())
        )
    except (OSError, ValueError, KeyError, TypeError):  # not written yet
        return "another process"


def _close_in_child() -> None:
    """Close the parent's locks after a fork: a worker must not hold them if the parent dies."""
    while _HELD:
        os.close(_HELD.pop())


os.register_at_fork(after_in_child=_close_in_child)
