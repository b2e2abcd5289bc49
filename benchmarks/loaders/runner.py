"""What happens in a contestant's process: start it, look at its pixels, time it."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
import traceback
from collections import Counter
from multiprocessing.connection import Connection

import torch

from benchmarks.loaders.contestant import Contestant, Job, Missing
from benchmarks.loaders.difference import Difference, difference
from benchmarks.loaders.usage import cpu_seconds, memory_bytes
from fastimae.engine.throughput import throughput
from fastimae.loaders.errors import DataError

CPU = torch.device("cpu")
QUEUED_PER_WORKER = 2
"""Batches that a DataLoader has ready for each worker; no contestant has more."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Start:
    """The first pass over the images."""

    first_batch_ms: float
    """From nothing but imported libraries to the first batch."""
    first_pass_img_per_s: float | None
    """From the first batch to the last of the pass; None if the images are too few."""
    bytes_before: int
    """Memory before the contestant's library was imported."""
    stages: dict[str, float]
    """`Contestant.stage_times` of this pass; empty if it tells nothing."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Round:
    """One timing."""

    images: int
    seconds: float
    cpu_seconds: float
    """Of the process and its children."""
    stages: dict[str, float]
    """What `Contestant.stage_times` grew by; empty if it tells nothing."""


class Runner:
    """A contestant under way."""

    def __init__(self, make: type[Contestant], job: Job) -> None:
        self.make, self.job = make, job
        self.contestant: Contestant | None = None

    def start(self) -> Start:
        """Import, build, and go once over the images."""
        before = memory_bytes(os.getpid())
        try:
            self.make.prepare()
        except ImportError as error:
            raise Missing(f"{error}: pip install it") from error
        begin = time.perf_counter()
        self.contestant = self.make(self.job)
        self.stream = self.contestant.batches()
        next(self.stream)
        first = time.perf_counter()
        return Start(
            first_batch_ms=1e3 * (first - begin),
            first_pass_img_per_s=self._rest_of_pass(),
            bytes_before=before,
            stages=self.contestant.stage_times() or {},
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
        """Compare what it shows next with Pillow; None if it does not tell what it shows."""
        shown = self.contestant.pixels(self.stream)
        return None if shown is None else difference(shown, self.job, count)

    def round(self, seconds: float) -> Round:
        """Take batches for `seconds`, once those that were waiting are used up."""
        for _ in range(QUEUED_PER_WORKER * self.job.num_workers + 2):
            next(self.stream)
        stages, cpu = self.contestant.stage_times() or {}, cpu_seconds(os.getpid())
        taken, _, batches = throughput(lambda batch: None, self.stream, CPU, seconds)
        spent = Counter(self.contestant.stage_times() or {})
        spent.subtract(stages)
        return Round(
            images=batches * self.job.batch_size,
            seconds=taken,
            cpu_seconds=cpu_seconds(os.getpid()) - cpu,
            stages=dict(spent),
        )

    def close(self) -> None:
        """Stop the contestant's threads and processes."""
        if self.contestant is not None:
            self.stream = None
            self.contestant.close()


def serve(connection: Connection, make: type[Contestant], job: Job) -> None:
    """Do what is asked for, by a method's name and arguments, until the other side hangs up.

    Answers with ("done", result), ("missing", why) or ("failed", traceback).
    """
    # Ctrl-C is the other side's to handle: it ends this process.
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
