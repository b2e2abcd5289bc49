"""Runs parts as parallel processes, and ends them in time, whatever they do."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks.gpu_day.plan import Part
from benchmarks.harness import ROOT
from fastimae.engine.launcher import without_ranks

LAST_LINES, LAST_CHARACTERS = 30, 50_000
POLL_SECONDS = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a part ended."""

    status: str
    """"ok", or what went wrong."""
    seconds: float
    text: str
    """The end of its output."""
    complaint: str
    """The last lines of its log and errors; without any, of its output."""


def run_parts(
    parts: Sequence[Part], folder: Path, deadline: float, meanwhile: Callable[[], None]
) -> dict[str, Outcome]:
    """Start all parts and wait until they end, or until `deadline` of time.monotonic.

    folder: for their output, NAME.txt and NAME.err. meanwhile: called repeatedly. Everything that a
    part started is killed, also if this raises an exception.
    """
    found: dict[str, Outcome] = {}
    begin = time.monotonic()
    with contextlib.ExitStack() as stack:
        running = {part: stack.enter_context(_started(part, folder)) for part in parts}
        while running:
            late = time.monotonic() >= deadline
            for part, process in list(running.items()):
                if late or process.poll() is not None:
                    seconds = time.monotonic() - begin
                    status = f"killed after {seconds:.0f} s" if process.poll() is None else ""
                    _kill(process)
                    del running[part]
                    found[part.name] = _outcome(part, folder, process, status, seconds)
            meanwhile()
            if running:
                time.sleep(min(POLL_SECONDS, max(deadline - time.monotonic(), 0)))
    return {part.name: found[part.name] for part in parts}


@contextlib.contextmanager
def _started(part: Part, folder: Path) -> Iterator[subprocess.Popen]:
    with (
        (folder / f"{part.name}.txt").open("wb") as out,
        (folder / f"{part.name}.err").open("wb") as err,
    ):
        process = subprocess.Popen(
            part.command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
            start_new_session=True, env=without_ranks(os.environ),
        )  # fmt: skip
        try:
            yield process
        finally:
            _kill(process)


def _kill(process: subprocess.Popen) -> None:
    """Kill the process and everything that it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _outcome(
    part: Part, folder: Path, process: subprocess.Popen, status: str, seconds: float
) -> Outcome:
    text, errors = (
        (folder / f"{part.name}.{end}").read_text(errors="replace") for end in ("txt", "err")
    )
    code = process.returncode
    lines = (errors.strip() or text.strip()).split("\n")
    lines = [
        line.rstrip("\r").rpartition("\r")[2] for line in lines
    ]  # the last state of a progress bar
    return Outcome(
        status=status or ("ok" if code == 0 else f"exit status {code}"),
        seconds=round(seconds, 1),
        text=text[-LAST_CHARACTERS:],
        complaint="\n".join(lines[-LAST_LINES:])[-LAST_CHARACTERS:],
    )
