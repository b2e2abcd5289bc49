"""Commands for some time: started without waiting for imports, watched, and stopped by SIGTERM."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import NamedTuple

from benchmarks.cifar10.jobs import Job
from benchmarks.cifar10.pace import Pace, pace_of
from fastimae.engine.launcher import without_ranks
from fastimae.evaluate.pages.evaluations import LOG
from fastimae.evaluate.studies.runs import begin, check_status

POLL, GRACE = 0.05, 5.0
"""Seconds between looks at a log, and seconds that a command has to save and stop."""
_PRELOADED = (
    "fastimae.cli",
    "fastimae.build",
    *(f"fastimae.evaluate.tasks.{task}" for task in ("msem", "linear", "separability")),
)
"""None of them may use CUDA when imported, or no fork can."""
_FUNCTIONS = {"fastimae-train": "train", "fastimae-eval": "evaluate"}
"""Those of `fastimae.cli`."""


class Watched(NamedTuple):
    """What was seen of a command: the seconds it took, and those after which epochs ended."""

    seconds: float
    times: Sequence[float]

    @property
    def pace(self) -> Pace:
        """The pace of the run."""
        return pace_of(self.times, self.seconds)


Stop = Callable[[Watched], bool]
"""Whether a command is to stop, by what was seen of it so far."""


def run_for_some_time(job: Job, stop: Stop) -> Watched:
    """Run the command of a job to its end, or until `stop` says so: it then saves and stops.

    Raises ConfigError if the command fails, and the errors of `state` of a run.
    """
    started = time.monotonic()
    if not begin(job.run):
        return Watched(0.0, ())
    lines, times = _lines(job), list[float]()
    with _started(job.run.command) as process:
        while process.is_alive() and not stop(Watched(time.monotonic() - started, times)):
            process.join(POLL)
            now = _lines(job)
            times += [time.monotonic() - started] * (now - lines)
            lines = now  # fewer than before, if epochs are trained again
        by_itself = not process.is_alive()
    if by_itself:
        check_status(job.run, process.exitcode or 0)
    return Watched(time.monotonic() - started, times)


def warm_up() -> None:
    """Import what all commands need, in the process that they are forks of: seconds, but once."""
    process = _context().Process(target=int)
    process.start()
    process.join()


def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(_PRELOADED))
    return context


@contextlib.contextmanager
def _started(words: Sequence[str]) -> Iterator[ForkServerProcess]:
    """Start a command in a fork of a process that has imported what all commands need.

    Imports take seconds, and there are twenty commands in ten minutes.
    """
    process = _context().Process(target=_run, args=words)
    process.start()
    try:
        yield process
    finally:
        process.terminate()
        process.join(GRACE)
        process.kill()
        process.join()


def _run(program: str, *arguments: str) -> None:
    for name in os.environ.keys() - without_ranks(os.environ).keys():
        del os.environ[name]
    threading.Thread(target=_end_with_parent, daemon=True).start()
    from fastimae import cli

    sys.exit(getattr(cli, _FUNCTIONS[program])(arguments))


def _end_with_parent() -> None:
    """Let the command save and stop if the process that started it is killed."""
    multiprocessing.parent_process().join()
    os.kill(os.getpid(), signal.SIGTERM)


def _lines(job: Job) -> int:
    log = job.run.folder / LOG
    return log.read_bytes().count(b"\n") if log.is_file() else 0
