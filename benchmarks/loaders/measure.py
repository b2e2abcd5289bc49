"""All loaders of a section, measured in turns."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import statistics
from collections.abc import Callable, Iterator, Mapping

from benchmarks.harness import log_progress
from benchmarks.loaders.base import LoaderUnderTest, LoadJob, Missing
from benchmarks.loaders.difference import Difference
from benchmarks.loaders.process import Failed, LoaderProcess, Round, Start
from benchmarks.loaders.usage import memory_bytes

CHECKED_IMAGES = 256
"""Compared with Pillow before the timing, and as many after it."""


@dataclasses.dataclass(kw_only=True)
class Measured:
    """Everything measured of one loader."""

    make: type[LoaderUnderTest]
    job: LoadJob
    start: Start | None = None
    checks: list[Difference] = dataclasses.field(default_factory=list)
    rounds: list[Round] = dataclasses.field(default_factory=list)
    peak_bytes: int | None = None
    """Peak of a separate round, above what the process had before the library was imported."""
    missing: str | None = None
    """How to get what it needs, if that is missing."""
    failed: str | None = None
    """Why its results do not count; None if they do."""

    @property
    def speeds(self) -> list[float]:
        """Images per second of each round."""
        return [one.images / one.seconds for one in self.rounds]

    @property
    def speed(self) -> float:
        """Images per second, the median of the rounds."""
        return statistics.median(self.speeds)

    @property
    def cpu_seconds(self) -> float:
        """CPU time per image, over all rounds."""
        return sum(one.cpu_seconds for one in self.rounds) / sum(one.images for one in self.rounds)


def measure(
    loaders: Mapping[str, type[LoaderUnderTest]],
    job: LoadJob,
    *,
    rounds: int,
    seconds: float,
    thorough: bool = True,
    keep: Callable[[dict[str, Measured]], None],
) -> dict[str, Measured]:
    """Start each loader, check its pixels, time all in shuffled rounds.

    thorough: measure their memory afterwards, and check the pixels again. keep: called with all
    results so far after each round and after each measurement of memory. A loader that is missing
    or fails is left out from then on.
    """
    found = {name: Measured(make=make, job=job) for name, make in loaders.items()}
    where = f"{job.images.section}, {job.num_workers} thread{'s' * (job.num_workers > 1)}"
    with contextlib.ExitStack() as stack:
        running: dict[str, LoaderProcess] = {}
        for name, one in found.items():
            log_progress(f"{where}: {name} starts")
            with _drop_if_failed(name, one, running):
                running[name] = process = LoaderProcess(one.make, job)
                stack.callback(process.close)
                one.start = process.ask("start")
                _check(one, process)
                process.settle()
        keep(found)
        shuffled = random.Random(job.seed)
        for number in range(rounds):
            log_progress(f"{where}: round {number + 1} of {rounds}")
            for name in shuffled.sample(list(running), len(running)):
                with _drop_if_failed(name, found[name], running):
                    found[name].rounds.append(running[name].ask("round", seconds))
                    running[name].settle()
            keep(found)
        for name, process in list(running.items()) if thorough else []:
            with _drop_if_failed(name, found[name], running):
                found[name].peak_bytes = _peak(process, seconds) - found[name].start.bytes_before
                _check(found[name], process)
                process.settle()
            keep(found)
    return found


@contextlib.contextmanager
def _drop_if_failed(name: str, one: Measured, running: dict[str, LoaderProcess]) -> Iterator[None]:
    """Remove a loader that is missing or fails from the running ones, and note why."""
    try:
        yield
    except Missing as error:
        one.missing = str(error)
    except Failed as error:
        one.failed = str(error)
    else:
        return
    log_progress(f"{name} is left out: {one.missing or one.failed}")
    running.pop(name).close()


def _check(one: Measured, process: LoaderProcess) -> None:
    """Raise `Failed` if the loader promises Pillow's pixels and returns others."""
    seen: Difference | None = process.ask("check", CHECKED_IMAGES)
    if seen is None:
        return
    one.checks.append(seen)
    if one.make.exact and seen.largest:
        raise Failed(
            f"WRONG PIXELS: {seen.unequal:.2%} of the pixels of {seen.images} images are not "
            f"Pillow's, by {seen.mean:.3g} of 255 on average and {seen.largest} at most"
        )


def _peak(process: LoaderProcess, seconds: float) -> int:
    """Measure the peak of memory in a round that is not timed, as watching costs time."""
    seen = [memory_bytes(process.pid)]
    process.ask("round", seconds, meanwhile=lambda: seen.append(memory_bytes(process.pid)))
    return max(seen)
