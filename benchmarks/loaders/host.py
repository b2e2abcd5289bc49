"""A contestant's process, seen from the benchmark's."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from typing import Any

from benchmarks.loaders.contestant import Contestant, Job, Missing
from benchmarks.loaders.runner import serve
from benchmarks.loaders.usage import cpu_seconds, family

START_SECONDS = 300
"""For importing and compiling; some libraries wait for ever where they fail."""
_QUIET_SECONDS = 0.05
_PATIENCE = 3.0


class Failed(Exception):
    """The contestant raised an error, died or hung; the message says which."""


class Host:
    """Starts a process for a contestant, asks it for things, ends it."""

    def __init__(self, make: type[Contestant], job: Job) -> None:
        # Not forked: memory shared with this process or other contestants could not be told apart.
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, make, job))
        self._process.start()
        self._hangs = False
        theirs.close()

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    def ask(
        self,
        name: str,
        *arguments: Any,
        limit: float = START_SECONDS,
        meanwhile: Callable[[], None] | None = None,
    ) -> Any:
        """The result of a method of `Runner`.

        limit: seconds to wait; meanwhile: called again and again until then.
        Raises `Missing` or `Failed`.
        """
        end = time.monotonic() + limit
        try:
            self._connection.send((name, *arguments))
            while not self._connection.poll(0.02 if meanwhile else limit):
                if time.monotonic() > end:
                    self._hangs = True
                    raise Failed(f"no answer within {limit:g} s")
                if meanwhile:
                    meanwhile()
            kind, value = self._connection.recv()
        except (EOFError, ConnectionError) as error:
            self._process.join(_PATIENCE)
            raise Failed(f"its process died, exit status {self._process.exitcode}") from error
        if kind == "missing":
            raise Missing(value)
        if kind == "failed":
            raise Failed(value)
        return value

    def settle(self) -> None:
        """Wait until it has filled its queues and computes no more."""
        end, before = time.monotonic() + _PATIENCE, -1.0
        while (now := cpu_seconds(self.pid)) != before and time.monotonic() < end:
            before = now
            time.sleep(_QUIET_SECONDS)

    def close(self) -> None:
        """End the process and its children. May be called twice."""
        if self._connection.closed:
            return
        members = family(self.pid)
        self._connection.close()
        self._process.join(0 if self._hangs else _PATIENCE)
        if self._process.is_alive():
            for pid in members:
                _kill(pid)
            self._process.join()
        self._process.close()


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
