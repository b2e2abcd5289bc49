"""Runs of a study: commands that each run once, and resume after an interruption."""

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
from typing import Literal, NamedTuple

from fastimae.engine.launcher import without_ranks
from fastimae.evaluate.origin import check_result_is_of
from fastimae.evaluate.result_files import RESULTS, read_results
from fastimae.folders import write_text
from fastimae.log import log
from fastimae.settings import ConfigError

NOTE = "command.json"
PROGRAMS = {
    "fastimae-train": ("-m", "fastimae.cli"),
    "fastimae-eval": ("-c", "import sys; from fastimae.cli import evaluate; sys.exit(evaluate())"),
}
"""Python's arguments for each command, which may not be on the PATH."""
_FREE = ("--num_workers", "--device")
"""Flags, each with one value, that may change when a run is resumed: they change no result."""
_STOPPED = {status for number in (signal.SIGINT, signal.SIGTERM)
            for status in (-number, 128 + number)}  # fmt: skip
"""Exit statuses of a command that Ctrl-C or SIGTERM has ended."""


class StudyRun(NamedTuple):
    """A command that leaves its result in a folder, and resumes there when run again."""

    name: str
    """A model, imae-0.5, or an evaluation of it, imae-0.5/linear."""
    folder: Path
    command: Sequence[str]
    """One of PROGRAMS, then its flags."""
    done: Callable[[], bool]
    """Whether the folder holds the finished result."""
    needs: Sequence[str] = ()
    """Names of runs that must come before."""
    check: Callable[[], None] = lambda: None
    """Raises the errors of the command's flags."""
    checkpoint: Path | None = None
    """The model that an evaluation is of."""
    launcher: Sequence[str] = ()
    """Words before the command."""

    @property
    def words(self) -> list[str]:
        """The command as one would type it."""
        return [*self.launcher, *self.command]


def state(run: StudyRun) -> Literal["done", "begun", "missing"]:
    """Return how far a run is.

    Raises ConfigError if its folder belongs to another command, and CheckpointError if its result
    is of other weights than the checkpoint holds now.
    """
    if not _has_begun(run.folder):
        return "missing"
    check_same(run)
    if not run.done():
        return "begun"
    if run.checkpoint:
        check_result_is_of(run.checkpoint, read_results(run.folder), run.folder)
    return "done"


def check_same(run: StudyRun) -> None:
    """Raise ConfigError if the folder of a run holds something of another command."""
    note = run.folder / NOTE
    before = json.loads(note.read_text(encoding="utf-8")) if note.is_file() else ()
    if _has_begun(run.folder) and _significant(before) != _significant(run.words):
        raise ConfigError(
            f"{run.folder} belongs to another command: use another --output_dir, or remove that "
            f"folder ({shlex.join(before) or 'its command is not known'})"
        )


def run_once(run: StudyRun) -> bool:
    """Run the command unless it is done. Returns False if it was stopped before its end.

    Raises ConfigError if the command fails, and the errors of `state`.
    """
    if not begin(run):
        log.info("%s: already done, in %s", run.name, run.folder)
        return True
    log.info("%s: %s", run.name, shlex.join(run.words))
    check_status(run, call(run.words))
    return run.done()


def begin(run: StudyRun) -> bool:
    """Make the folder of a run, with its command in it. Returns False if the run is done.

    Raises the errors of `state`.
    """
    if state(run) == "done":
        return False
    run.folder.mkdir(parents=True, exist_ok=True)
    write_text(run.folder / NOTE, json.dumps(run.words) + "\n")
    return True


def check_status(run: StudyRun, status: int) -> None:
    """Raise ConfigError if a run ended with this exit status by itself, and not well."""
    if status and status not in _STOPPED:
        raise ConfigError(
            f"{run.name} failed with exit status {status}; see its messages above. The same "
            "command resumes from there"
        )


def call(words: Sequence[str]) -> int:
    """Run one of our commands to its end and return its exit status.

    SIGTERM is passed on, and Ctrl-C reaches the command anyway: it may then save and stop, which is
    waited for.
    """
    at = next(at for at, word in enumerate(words) if word in PROGRAMS)
    python = [sys.executable, *PROGRAMS[words[at]]]
    process = subprocess.Popen(
        [*words[:at], *python, *words[at + 1 :]], env=without_ranks(os.environ)
    )
    with _passing_on_sigterm(process):
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                log.warning("waiting for the command to save and stop")


@contextlib.contextmanager
def _passing_on_sigterm(process: subprocess.Popen) -> Iterator[None]:
    before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _has_begun(folder: Path) -> bool:
    """Return whether there is something to keep: a result, or a checkpoint to resume."""
    return (folder / RESULTS).is_file() or any(folder.glob("checkpoint-*.pth"))


def _significant(command: Sequence[str]) -> list[str]:
    """Return the command without the flags that change no result."""
    words = list(command)
    for flag in _FREE:
        while flag in words:
            at = words.index(flag)
            del words[at : at + 2]
    return words
