"""The process in which a loader under test runs, and the benchmark's connection to it."""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch

from benchmarks.loaders.base import LoaderUnderTest, LoadJob, Missing
from benchmarks.loaders.difference import Difference, difference
from benchmarks.loaders.usage import cpu_seconds, family, memory_bytes, settle
from fastimae.engine.throughput import throughput
from fastimae.loaders.errors import DataError

CPU = torch.device("cpu")
QUEUED_PER_WORKER = 2
"""Batches that a DataLoader keeps ready per worker; no other loader keeps more."""
START_SECONDS = 300
"""Limit for importing and compiling; some libraries hang where they fail."""
_PATIENCE = 3.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Start:
    """The first pass over the images."""

    first_batch_ms: float
    """Time to the first batch, with libraries already imported."""
    first_pass_img_per_s: float | None
    """Speed from the first batch to the last of the pass; None if there are too few images."""
    bytes_before: int
    """Memory before the loader's library was imported."""
    stages: dict[str, float]
    """`LoaderUnderTest.stage_times` of this pass; empty if unknown."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Round:
    """One timing."""

    images: int
    seconds: float
    cpu_seconds: float
    """CPU time of the process and its children."""
    stages: dict[str, float]
    """The increase of `LoaderUnderTest.stage_times`; empty if unknown."""


class Failed(Exception):
    """The loader raised an error, died or hung; the message says which."""


class LoaderProcess:
    """A loader's process, as the benchmark sees it: started, asked, ended."""

    def __init__(self, make: type[LoaderUnderTest], job: LoadJob) -> None:
        # Not forked: memory shared with other processes could not be separated.
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, make, job))
        self._process.start()
        self._hangs = False
        theirs.close()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def ask(
        self,
        name: str,
        *arguments: Any,
        limit: float = START_SECONDS,
        meanwhile: Callable[[], None] | None = None,
    ) -> Any:
        """Call a method of `Runner` in that process and return its result.

        limit: seconds to wait; meanwhile: called repeatedly while waiting.
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
        """Wait until it has filled its queues and is idle."""
        settle(self.pid)

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


class Runner:
    """A running loader, as its own process sees it."""

    def __init__(self, make: type[LoaderUnderTest], job: LoadJob) -> None:
        self.make, self.job = make, job
        self.loader: LoaderUnderTest | None = None

    def start(self) -> Start:
        """Import, build, and load all images once."""
        before = memory_bytes(os.getpid())
        try:
            self.make.prepare()
        except ImportError as error:
            raise Missing(f"{error}: pip install it") from error
        begin = time.perf_counter()
        self.loader = self.make(self.job)
        self.stream = self.loader.batches()
        next(self.stream)
        first = time.perf_counter()
        return Start(
            first_batch_ms=1e3 * (first - begin),
            first_pass_img_per_s=self._rest_of_pass(),
            bytes_before=before,
            stages=self.loader.stage_times() or {},
        )

    def _rest_of_pass(self) -> float | None:
        ready = self.job.num_workers - 1 if self.make.whole_batches else 0
        batches = self.job.batches_of_one_pass() - 1 - ready
        if batches < 1:
            return None
        for _ in range(ready):
            next(self.stream)
        begin = time.perf_counter()
        for _ in range(batches):
            next(self.stream)
        return batches * self.job.batch_size / (time.perf_counter() - begin)

    def check(self, count: int) -> Difference | None:
        """Compare the next images with Pillow's; None if the loader does not report its windows."""
        decoded = self.loader.pixels(self.stream)
        return None if decoded is None else difference(decoded, self.job, count)

    def round(self, seconds: float) -> Round:
        """Take batches for `seconds`, after those that were ready are used up."""
        for _ in range(QUEUED_PER_WORKER * self.job.num_workers + 2):
            next(self.stream)
        stages, cpu = self.loader.stage_times() or {}, cpu_seconds(os.getpid())
        taken, _, batches = throughput(lambda batch: None, self.stream, CPU, seconds)
        spent = Counter(self.loader.stage_times() or {})
        spent.subtract(stages)
        return Round(
            images=batches * self.job.batch_size,
            seconds=taken,
            cpu_seconds=cpu_seconds(os.getpid()) - cpu,
            stages=dict(spent),
        )

    def close(self) -> None:
        """Stop the loader's threads and processes."""
        if self.loader is not None:
            self.stream = None
            self.loader.close()


def serve(connection: Connection, make: type[LoaderUnderTest], job: LoadJob) -> None:
    """Call the methods of `Runner` that are asked for, until the other side hangs up.

    Answers with ("done", result), ("missing", why) or ("failed", traceback).
    """
    # The other side handles Ctrl-C, and ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    runner = Runner(make, job)
    try:
        while True:
            name, *arguments = connection.recv()
            connection.send(_answer(runner, name, arguments))
    except (EOFError, ConnectionError):
        runner.close()


def _answer(runner: Runner, name: str, arguments: list) -> tuple[str, object]:
    try:
        return "done", getattr(runner, name)(*arguments)
    except (Missing, DataError) as error:
        kind = "missing" if isinstance(error, Missing) else "failed"
        return kind, " ".join(str(error).split())
    except Exception:
        return "failed", traceback.format_exc(limit=6)
