"""Runs the commands that a user would type, and ends one that hangs, on slow machines, too."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from fastimae.engine.launcher import without_ranks

STALLED_SECONDS = 300
"""A command that does not compute for so long counts as hanging. One that waits for its turn on a
loaded machine still computes now and then."""
BUSY_SHARE = 1e-3
"""Share of a core that counts as computing; threads that only wait use less."""


class DemoError(Exception):
    """A step of the demo failed."""


def say(text: str) -> None:
    """Print a line of the demo, set apart from the output of its commands."""
    print(f"\n=== {text}", flush=True)


def run(command: list[str]) -> None:
    """Print a command and run it. Raises DemoError unless it exits with 0."""
    finish(start(command), command)


def start(command: list[str]) -> subprocess.Popen:
    """Print a command and start it: that of this Python's environment, as a single process."""
    say(f"$ {shlex.join(command)}")
    program = Path(sys.executable).with_name(command[0])
    if not program.is_file():
        raise DemoError(f"{program} is not installed: make setup")
    return subprocess.Popen([program, *command[1:]], env=without_ranks(os.environ))


def finish(process: subprocess.Popen, command: list[str]) -> None:
    """Wait for a command. Raises DemoError if it hangs or does not exit with 0."""
    wait(process, command, lambda: False)
    if process.returncode != 0:
        raise DemoError(f"{command[0]} exited with status {process.returncode}")


def wait(process: subprocess.Popen, command: list[str], ready: Callable[[], bool]) -> None:
    """Wait until `ready()`, or the process ends. Raises DemoError if it hangs, and kills it."""
    since, used = time.monotonic(), 0.0
    while process.poll() is None and not ready():
        now, total = time.monotonic(), cpu_seconds(process.pid)
        if total - used > BUSY_SHARE * STALLED_SECONDS:
            since, used = now, total
        elif now - since > STALLED_SECONDS:
            process.kill()
            process.wait()
            raise DemoError(f"{command[0]} hangs: it computed nothing for {STALLED_SECONDS} s")
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.1)


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process and of its living children, 0 if it has ended."""
    total = 0.0
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        for each in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                total += sum(each.cpu_times()[:4])  # own and ended children's, user and system
    return total
