"""How far long work is, on stderr: a bar in a terminal, plain lines in a file or a pipe.

The only file that uses tqdm.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from typing import TypeVar

from tqdm import tqdm

from fastimae.log import log

Item = TypeVar("Item")

LINE_SECONDS = 30.0
"""Seconds after which another line is due, once work has gone on for a while."""
_FIRST_SECONDS = 1.0
"""Work that is done by then has no lines."""
_KEPT = 4
"""Marks that `TimeLeft` looks back to."""
_LEAST_BAR, _WIDE = 5, 60
"""Cells that a bar must have, and columns that a terminal must have for a bar."""


def in_terminal() -> bool:
    """Return whether a person watches stderr in a terminal that can redraw a line."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def columns() -> int:
    """Return how many characters fit into a line of the terminal; 79 if it does not say.

    The last column stays empty: some terminals begin a new line after it.
    """
    with contextlib.suppress(OSError, ValueError):
        return (os.get_terminal_size(sys.stderr.fileno()).columns or 80) - 1
    return 79


class Due:
    """Whether another line is due: after 1, 2, 4, 8, 16 seconds, and later every LINE_SECONDS."""

    def __init__(self) -> None:
        self.begun = self.last = time.monotonic()

    def __call__(self, share: float = 1.0) -> bool:
        """Return True if a line is due, which counts as written then.

        share: of the usual pause, after which a line is due; less than 1 at a good moment for it.
        """
        now = time.monotonic()
        pause = min(LINE_SECONDS, max(_FIRST_SECONDS, self.last - self.begun))
        if now - self.last < share * pause:
            return False
        self.last = now
        return True


class TimeLeft:
    """How long the rest will take, from the pace since the oldest of the last marks.

    total, done: units of work. What was done before, by a run that is resumed, has no pace.
    """

    def __init__(self, total: int, done: int = 0) -> None:
        self.total = total
        self.marks = deque([(time.monotonic(), done)], maxlen=_KEPT)

    def mark(self, done: int) -> None:
        """Remember when this much was done."""
        self.marks.append((time.monotonic(), done))

    def pace(self, done: int) -> float | None:
        """Return units per second; None before anything is done."""
        since, before = self.marks[0]
        return (done - before) / max(time.monotonic() - since, 1e-9) if done > before else None

    def seconds(self, done: int) -> float | None:
        """Return the seconds left; None before anything is done."""
        pace = self.pace(done)
        return (self.total - done) / pace if pace else None

    def words(self, done: int) -> list[str]:
        """Return ["1:23:45 left"], or [] while nothing is known."""
        seconds = self.seconds(done)
        return [] if seconds is None else [f"{duration(seconds)} left"]


def duration(seconds: float) -> str:
    """Return MM:SS or H:MM:SS."""
    return tqdm.format_interval(seconds)


class Bar(tqdm):
    """A line at the bottom of a terminal: name, percentage, bar, and the values that fit.

    Without a terminal, and if `quiet`, it does nothing. values: called when the line is drawn; the
    most important value comes first.
    """

    def __init__(
        self,
        total: int | None,
        done: int,
        name: str,
        values: Callable[[], Sequence[str]],
        *,
        quiet: bool = False,
    ) -> None:
        self.values = values
        super().__init__(
            total=total, initial=done, desc=name, file=sys.stderr, ncols=0, nrows=20,
            mininterval=0.5, disable=quiet or not in_terminal(),
        )  # fmt: skip

    def set_name(self, name: str) -> None:
        """Change the name; it is drawn with the next update."""
        self.set_description_str(name, refresh=False)

    def __str__(self) -> str:
        share = self.n / self.total if self.total else None
        return bar_line(self.desc, share, self.values(), columns())


def bar_line(name: str, share: float | None, values: Sequence[str], columns: int) -> str:
    """Return a line of at most `columns` characters, with as many of the values as fit.

    share: how much is done, in 0..1; None: not known, and no bar.
    """
    head = name if share is None else f"{name} {share:4.0%}"
    bar = columns >= _WIDE and share is not None
    text = _fitting(values, columns - len(head) - (_LEAST_BAR + 3 if bar else 1))
    cells = columns - len(head) - len(text) - 3
    between = f"|{_cells(share, cells)}|" if bar else ""
    return f"{head}{between} {text}".rstrip()[:columns]


def _cells(share: float, count: int) -> str:
    """Draw a bar of `count` cells."""
    return tqdm.format_meter(
        min(share, 1), 1, 0, ncols=count, bar_format="{bar}", ascii=not _has_blocks()
    )


def _has_blocks() -> bool:
    """Return whether stderr's encoding has the characters that bars are drawn with."""
    try:
        "█▏".encode(sys.stderr.encoding or "ascii")
    except (LookupError, UnicodeEncodeError):
        return False
    return True


def _fitting(values: Sequence[str], columns: int) -> str:
    """Join the first of the values, as long as they fit."""
    text = ""
    for value in values:
        longer = f"{text}, {value}" if text else value
        if len(longer) > columns:
            break
        text = longer
    return text


class Meter:
    """Work in equal units: a bar, or a line now and then and one at the end. A context manager.

    total: None if it is not known. done: of an earlier process. quiet: neither bar nor lines.
    """

    def __init__(
        self, total: int | None, name: str, unit: str, *, done: int = 0, quiet: bool = False
    ) -> None:
        self.total, self.name, self.unit = total, name, unit
        self.done, self.quiet, self.lines = done, quiet, not quiet and not in_terminal()
        self.due, self.left = Due(), TimeLeft(total or 0, done)
        self.bar = Bar(total, done, name, self._values, quiet=quiet)

    def __enter__(self) -> Meter:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()
        took = time.monotonic() - self.due.begun
        if self.lines and took >= _FIRST_SECONDS:
            log.info("%s: %s in %s", self.name, ", ".join(self._values()[:2]), duration(took))

    def update(self, count: int = 1) -> None:
        """Count `count` more units as done."""
        self.done += count
        self.bar.update(count)
        if self.lines and self.done != self.total and self.due():
            log.info("%s: %s", self.name, ", ".join(self._values()))

    def _values(self) -> list[str]:
        """Return how much is done, how fast, and how long the rest will take."""
        done = self._amount(self.done)
        if self.total is not None:
            done = f"{done.split()[0]} of {self._amount(self.total)}"
        pace = self.left.pace(self.done)
        speed = [] if pace is None else [f"{self._amount(pace)}/s"]
        left = [] if self.total is None else self.left.words(self.done)
        return [done, *speed, *left]

    def _amount(self, count: float) -> str:
        """Return an amount of work in words, such as "300 img"; bytes as "1.2G B"."""
        if self.unit == "B":
            return f"{tqdm.format_sizeof(count)} B"
        whole = count >= 100 or isinstance(count, int)
        return f"{count:{'.0f' if whole else '.2g'}} {self.unit}"


def tracked(items: Iterable[Item], name: str, unit: str, *, quiet: bool = False) -> Iterator[Item]:
    """Yield the items, and show the progress; the last line comes after the last item."""
    total = len(items) if isinstance(items, Sized) else None
    with Meter(total, name, unit, quiet=quiet) as meter:
        for item in items:
            yield item
            meter.update()


class LogHandler(logging.Handler):
    """Writes log lines to stderr, above a bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        tqdm.write(self.format(record), file=sys.stderr)
