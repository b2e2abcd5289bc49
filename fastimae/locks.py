"""One writer at a time, by locks that the system lets go of however their process ends.

A lock is an open file, `.fastimae.lock` in a folder or NAME.lock beside a file, that says who has
it. It is removed afterwards; one that a killed process left behind is free.
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

from fastimae.folders import FolderError, cannot_write, prepare_file, prepare_folder
from fastimae.log import log

LOCK = ".fastimae.lock"
_HELD: set[int] = set()
"""Descriptors of this process's locks."""


class InUse(FolderError):
    """Another process writes there. The message says which."""


@contextlib.contextmanager
def folder_to_write(path: Path, flag: str = "--output_dir") -> Iterator[None]:
    """A folder that is made, tried out, and this process's alone inside. One that was made here
    and is left empty, as by a run that fails at once, is removed.

    Raises FolderError where it cannot be written, InUse where another process has it.
    """
    was_there = path.exists()
    prepare_folder(path, flag)
    try:
        with _lock(path / LOCK, path, flag):
            yield
    finally:
        if not was_there:
            with contextlib.suppress(OSError):  # it is not empty
                path.rmdir()


@contextlib.contextmanager
def file_to_write(path: Path, flag: str = "OUT") -> Iterator[None]:
    """The same for a file, whose folder is made."""
    prepare_file(path, flag)
    with _lock(path.with_name(f"{path.name}.lock"), path, flag):
        yield


def check_free(folder: Path, flag: str = "--output_dir") -> None:
    """Raise InUse where another process writes to the folder."""
    if (folder / LOCK).exists():
        with _lock(folder / LOCK, folder, flag):
            pass


@contextlib.contextmanager
def _lock(file: Path, place: Path, flag: str) -> Iterator[None]:
    try:
        descriptor = _acquired(file)
    except BlockingIOError:
        raise InUse(
            f"{place} is in use by {_holder(file)}: wait for it, stop it, or choose another {flag}"
        ) from None
    except OSError as error:
        raise cannot_write(file, flag, error) from error
    try:
        yield
    finally:
        if descriptor in _HELD:  # not in a forked process, which has let go
            _release(descriptor, file)


def _acquired(file: Path) -> int | None:
    """A descriptor that holds the lock; None where the file system has no locks."""
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
            log.info("%s: no lock (%s): see to it that no other process writes here",
                     file.parent, error.strerror)  # fmt: skip
            return None
        if _is_still(file, descriptor):
            _HELD.add(descriptor)
            os.ftruncate(descriptor, 0)
            os.write(descriptor, json.dumps(_me()).encode())
            return descriptor
        os.close(descriptor)  # its holder removed it before we had it


def _release(descriptor: int, file: Path) -> None:
    _HELD.discard(descriptor)
    with contextlib.suppress(OSError):
        if _is_still(file, descriptor):
            file.unlink()
    os.close(descriptor)


def _is_still(file: Path, descriptor: int) -> bool:
    """Whether the open file is the one of that name: it may have been removed, and made anew."""
    try:
        return os.path.samestat(file.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _me() -> dict[str, object]:
    return {
        "program": Path(sys.argv[0]).name or "python",
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %z"),
    }


def _holder(file: Path) -> str:
    """Who has the lock, as far as the file says."""
    try:
        return "{program} (process {pid} on {host}, since {since})".format(
            **json.loads(file.read_text())
        )
    except (OSError, ValueError, KeyError, TypeError):  # it has not been written yet
        return "another process"


def _let_go() -> None:
    """A worker of a killed process must not keep its locks."""
    while _HELD:
        os.close(_HELD.pop())


os.register_at_fork(after_in_child=_let_go)
