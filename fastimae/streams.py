"""Output whose reader may go away, as with `| head`: the rest is dropped, the work continues."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO


class _Stream:
    """A text stream that drops what nobody reads any more, instead of raising BrokenPipeError."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write the text, or drop it."""
        self._try(self._stream.write, text)
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        """Write the lines, or drop them."""
        self.write("".join(lines))

    def flush(self) -> None:
        """Write what is buffered, or drop it."""
        self._try(self._stream.flush)

    def _try(self, do: Callable, *arguments: str) -> None:
        try:
            do(*arguments)
        except OSError as error:
            self._failed(error)

    def _failed(self, error: OSError) -> None:
        _discard(self._stream)  # else the same text fails again when Python ends
        if not isinstance(error, BrokenPipeError):
            raise error


class _Messages(_Stream):
    """A stream of messages: one that cannot be written, say to a full disk, must not end a run."""

    def _failed(self, error: OSError) -> None:
        if isinstance(error, BrokenPipeError):
            _discard(self._stream)


@contextlib.contextmanager
def closed_early_is_fine() -> Iterator[None]:
    """During the block, continue without an error if the reader of stdout or stderr is gone.

    Buffered text is written at the end of the block: Python would report a failure to do so while
    it exits. Also a decorator.
    """
    with Path(os.devnull).open("w") as nowhere:  # for `>&-`, where Python has no stream at all
        out, messages = _Stream(sys.stdout or nowhere), _Messages(sys.stderr or nowhere)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(messages):
            try:
                yield
            finally:
                out.flush()
                messages.flush()


def _discard(stream: TextIO) -> None:
    """Send everything from now on, and what is still buffered, to /dev/null."""
    with contextlib.suppress(OSError, ValueError):  # not a file of the system, or closed
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
