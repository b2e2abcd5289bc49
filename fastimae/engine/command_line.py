"""The command line that this process runs, as one line to copy into a shell."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

_running: list[tuple[str, ...]] = []


@contextlib.contextmanager
def running_command(prog: str, argv: Sequence[str]) -> Iterator[None]:
    """Let `command_line` return this command during the block."""
    _running.append((prog, *argv))
    try:
        yield
    finally:
        _running.pop()


def command_line() -> str:
    """Return the running command of ours, else the command line of this Python program."""
    program, *flags = sys.argv or [""]
    words = _running[-1] if _running else (Path(program).name, *flags)
    return shlex.join(words)
