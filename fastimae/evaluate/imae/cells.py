"""Cells of a study: commands that are run once, and gone on with where they were stopped."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from fastimae.engine.launcher import without_ranks
from fastimae.evaluate.result_files import RESULTS
from fastimae.folders import write_text
from fastimae.log import log
from fastimae.settings import ConfigError

NOTE = "command.json"
PROGRAMS = {
    "fastimae-train": ("-m", "fastimae.cli"),
    "fastimae-eval": ("-c", "import sys; from fastimae.cli import evaluate; sys.exit(evaluate())"),
}
"""How Python runs our commands, also where they are not on the PATH."""
_FREE = ("--num_workers", "--device")
"""Flags, each with one value, that may change between tries."""


class Cell(NamedTuple):
    """A command that leaves its result in a folder, and goes on there when run again."""

    name: str
    folder: Path
    command: Sequence[str]
    """One of PROGRAMS, and its flags."""
    done: Callable[[], bool]
    """Whether the folder holds the finished result."""


def run_cell(cell: Cell) -> bool:
    """Run the cell unless it is done; False where it was stopped before that.

    Raises ConfigError where its command fails, or where the folder is of another command.
    """
    note = cell.folder / NOTE
    if _begun(cell.folder):
        _check_same(cell, json.loads(note.read_text(encoding="utf-8")) if note.is_file() else ())
        if cell.done():
            log.info("%s: done before, in %s", cell.name, cell.folder)
            return True
    cell.folder.mkdir(parents=True, exist_ok=True)
    write_text(note, json.dumps(list(cell.command)) + "\n")
    log.info("%s: %s", cell.name, shlex.join(cell.command))
    if code := call(cell.command):
        raise ConfigError(
            f"{cell.name} failed with exit status {code}; what it said is above. The same command "
            "goes on from there"
        )
    return cell.done()


def call(command: Sequence[str]) -> int:
    """Run one of our commands to its end and return its exit status.

    SIGTERM is handed on and Ctrl-C reaches it anyway: it may save and stop, and is waited for.
    """
    program, *flags = command
    process = subprocess.Popen(
        [sys.executable, *PROGRAMS[program], *flags], env=without_ranks(os.environ)
    )
    with _handing_on(process):
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                log.warning("waiting for the command to save and stop")


@contextlib.contextmanager
def _handing_on(process: subprocess.Popen) -> Iterator[None]:
    before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _begun(folder: Path) -> bool:
    """Whether there is something to keep: a result, or a checkpoint to go on from."""
    return (folder / RESULTS).is_file() or any(folder.glob("checkpoint-*.pth"))


def _check_same(cell: Cell, before: Sequence[str]) -> None:
    if _significant(before) != _significant(cell.command):
        raise ConfigError(
            f"{cell.folder} was made by another command: use another --output_dir, or remove that "
            f"folder ({shlex.join(before) or 'which one is not known'})"
        )


def _significant(command: Sequence[str]) -> list[str]:
    """The command without flags that change nothing."""
    words = list(command)
    for flag in _FREE:
        while flag in words:
            place = words.index(flag)
            del words[place : place + 2]
    return words
