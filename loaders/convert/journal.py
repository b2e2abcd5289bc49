"""The journal of a conversion, from which it resumes after it was stopped or killed."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path

import numpy as np

from fastimae.loaders.beton.layout import ROW


@dataclasses.dataclass
class Progress:
    """The results of a conversion so far, or of a stretch of it."""

    done: int = 0
    """Source images processed."""
    rows: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0, ROW))
    """ROW [N], the samples written."""
    how: Counter[str] = dataclasses.field(default_factory=Counter)
    """Number of samples by `BetonSample.how`: passed through, repaired, or encoded and why."""
    shrunk: Counter[str] = dataclasses.field(default_factory=Counter)
    """Number of samples that are smaller than their originals, by reason."""
    depths: Counter[str] = dataclasses.field(default_factory=Counter)
    """Number of samples that had more than 8 bits, by `pixels.depth_of`."""
    skipped: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    """Name and reason."""

    def add(self, stretch: Progress) -> None:
        """Add the results of the next stretch."""
        self.done += stretch.done
        self.rows = np.concatenate([self.rows, stretch.rows])
        self.how.update(stretch.how)
        self.shrunk.update(stretch.shrunk)
        self.depths.update(stretch.depths)
        self.skipped += stretch.skipped


class Journal:
    """A file of JSON lines: the fingerprint of the task, then the progress of each stretch.

    A line counts once it is complete; it must be added only after its data is on the disk. No other
    process has the file open: see `fastimae.locks.file_to_write`.

    Args:
        fingerprint: identifies the task, to recognise a journal of another one.
    """

    def __init__(self, path: Path, fingerprint: str) -> None:
        self._path = path
        self._file = path.open("a+b")
        self._file.seek(0)
        written = self._file.read()
        lines = written.split(b"\n")[:-1]
        replayed = _replay(lines, fingerprint)
        self.was_stale = bool(lines) and replayed is None
        """Whether there was a journal of another task, which is discarded now."""
        self.progress = replayed or Progress()
        """The results so far."""
        if replayed is None:
            self.restart(fingerprint)
        else:
            self._file.truncate(written.rindex(b"\n") + 1)

    def restart(self, fingerprint: str) -> None:
        """Discard all progress."""
        self.progress = Progress()
        self._file.truncate(0)
        self._write({"fingerprint": fingerprint})

    def add(self, stretch: Progress) -> None:
        """Record that another stretch is done."""
        self._write({**vars(stretch), "rows": stretch.rows.tolist()})
        self.progress.add(stretch)

    def close(self) -> None:
        """Close the file and keep it."""
        self._file.close()

    def remove(self) -> None:
        """Delete the journal of a finished task."""
        self._path.unlink()

    def _write(self, entry: dict) -> None:
        self._file.write(json.dumps(entry).encode() + b"\n")
        self._file.flush()


def _replay(lines: list[bytes], fingerprint: str) -> Progress | None:
    """Sum up all stretches; None if the journal is of another task, or not a journal."""
    try:
        first, *stretches = map(json.loads, lines)
        if first["fingerprint"] != fingerprint:
            return None
        progress, rows = Progress(), []
        for stretch in stretches:
            progress.done += stretch["done"]
            progress.how.update(stretch["how"])
            progress.shrunk.update(stretch["shrunk"])
            progress.depths.update(stretch["depths"])
            progress.skipped += map(tuple, stretch["skipped"])
            rows += map(tuple, stretch["rows"])
        progress.rows = np.array(rows, ROW)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None
    return progress
