"""Errors in the words of who reads them: flags where a command runs, names where Python calls.

Messages are written once, with flags: "--batch_size 48 is not a multiple of --mix_group 32".
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

_FLAG = re.compile(r"(\bfastimae-[^:;()]*)|(?<![\w./-])--(\w+)\b(?![-=])")
"""One of our flags. Those of a command that the message says to type, and of docker, stay, and
names of files: runs/a--b/x.pth."""
_command_runs = False


@contextlib.contextmanager
def as_command() -> Iterator[None]:
    """A command runs in this process: its user knows flags."""
    global _command_runs
    before, _command_runs = _command_runs, True
    try:
        yield
    finally:
        _command_runs = before


class WordedError(Exception):
    """An error for users of the commands, and of the Python API: there --name becomes name."""

    def __str__(self) -> str:
        text = super().__str__()
        return text if _command_runs else _FLAG.sub(lambda found: found[1] or found[2], text)
