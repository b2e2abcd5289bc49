"""Files that a run can do without: one that cannot be written is a warning, not the run's end."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from fastimae.log import log

_named: set[Path] = set()


@contextlib.contextmanager
def best_effort(path: Path, *more: type[Exception]) -> Iterator[None]:
    """Turn an OSError of the block into a warning, which names the file; only the first of a file.

    more: other exceptions by which a library reports such an error.
    """
    try:
        yield
    except (OSError, *more) as error:
        if path not in _named:
            _named.add(path)
            reason = getattr(error, "strerror", None) or " ".join(str(error).split())
            log.warning("cannot write %s (%s); the run continues without it", path, reason)


class GrowingFile:
    """A file that only grows. What does not fit on the disk now is written once there is room.

    What is appended at once is in the file completely or not at all.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._waiting: list[bytes] = []

    def append(self, data: bytes) -> None:
        """Append data, after whatever could not be written before. Errors are warnings."""
        self._waiting.append(data)
        self.flush()

    def flush(self) -> None:
        """Try again to write what could not be written."""
        with best_effort(self.path):
            while self._waiting:
                _append(self.path, self._waiting[0])
                del self._waiting[0]


def _append(path: Path, data: bytes) -> None:
    """Append data to a file. If it does not fit, the file stays as it is. Raises OSError."""
    with path.open("ab", buffering=0) as file:
        size = file.tell()
        try:
            if file.write(data) < len(data):  # a disk that fills up takes a part
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            file.truncate(size)
            raise
