"""All contestants of a section, taking turns."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import statistics
from collections.abc import Callable, Iterator, Mapping

from benchmarks.harness import say
from benchmarks.loaders.contestant import Contestant, Job, Missing
from benchmarks.loaders.difference import Difference
from benchmarks.loaders.host import Failed, Host
from benchmarks.loaders.runner import Round, Start
from benchmarks.loaders.usage import memory_bytes

CHECKED_IMAGES = 256
"""Compared with Pillow before the timing, and as many after it."""


@dataclasses.dataclass(kw_only=True)
class Measured:
    """All that is known of one contestant."""

    make: type[Contestant]
    job: Job
    start: Start | None = None
    checks: list[Difference] = dataclasses.field(default_factory=list)
    rounds: list[Round] = dataclasses.field(default_factory=list)
    peak_bytes: int | None = None
    """Of a round of its own, above what the process had before the library was imported."""
    missing: str | None = None
    """How to get what it needs."""
    failed: str | None = None
    """Why its figures are no good."""

    @property
    def speeds(self) -> list[float]:
        """Images a second of each round."""
        return [one.images / one.seconds for one in self.rounds]

    @property
    def speed(self) -> float:
        """Their median."""
        return statistics.median(self.speeds)

    @property
    def cpu_seconds(self) -> float:
        """CPU time of an image, over all rounds."""
        return sum(one.cpu_seconds for one in self.rounds) / sum(one.images for one in self.rounds)


def measure(
    contestants: Mapping[str, type[Contestant]],
    job: Job,
    *,
    rounds: int,
    seconds: float,
    thorough: bool = True,
    keep: Callable[[dict[str, Measured]], None],
) -> dict[str, Measured]:
    """Start each contestant, check its pixels, time all in shuffled rounds.

    thorough: measure their memory afterwards, and check the pixels again. keep: is given all that
    is known so far, whenever that has grown by a round or by a contestant's memory.
    A contestant that is missing or fails is left out from there on.
    """
    found = {name: Measured(make=make, job=job) for name, make in contestants.items()}
    where = f"{job.images.section}, {job.num_workers} thread{'s' * (job.num_workers > 1)}"
    with contextlib.ExitStack() as stack:
        hosts: dict[str, Host] = {}
        for name, one in found.items():
            say(f"{where}: {name} starts")
            with _noting(name, one, hosts):
                hosts[name] = host = Host(one.make, job)
                stack.callback(host.close)
                one.start = host.ask("start")
                _check(one, host)
                host.settle()
        keep(found)
        shuffled = random.Random(job.seed)
        for number in range(rounds):
            say(f"{where}: round {number + 1} of {rounds}")
            for name in shuffled.sample(list(hosts), len(hosts)):
                with _noting(name, found[name], hosts):
                    found[name].rounds.append(hosts[name].ask("round", seconds))
                    hosts[name].settle()
            keep(found)
        for name, host in list(hosts.items()) if thorough else []:
            with _noting(name, found[name], hosts):
                found[name].peak_bytes = _peak(host, seconds) - found[name].start.bytes_before
                _check(found[name], host)
                host.settle()
            keep(found)
    return found


@contextlib.contextmanager
def _noting(name: str, one: Measured, hosts: dict[str, Host]) -> Iterator[None]:
    """Take a contestant that is missing or fails out of the hosts, and note why."""
    try:
        yield
    except Missing as error:
        one.missing = str(error)
    except Failed as error:
        one.failed = str(error)
    else:
        return
    say(f"{name} is out: {one.missing or one.failed}")
    hosts.pop(name).close()


def _check(one: Measured, host: Host) -> None:
    """Raises `Failed` if the contestant promises Pillow's pixels and shows others."""
    seen: Difference | None = host.ask("check", CHECKED_IMAGES)
    if seen is None:
        return
    one.checks.append(seen)
    if one.make.exact and seen.largest:
        raise Failed(
            f"WRONG PIXELS: {seen.unequal:.2%} of the pixels of {seen.images} images are not "
            f"Pillow's, by {seen.mean:.3g} of 255 in the mean and {seen.largest} at most"
        )


def _peak(host: Host, seconds: float) -> int:
    """The most memory during a round that is not timed, as watching it costs time."""
    seen = [memory_bytes(host.pid)]
    host.ask("round", seconds, meanwhile=lambda: seen.append(memory_bytes(host.pid)))
    return max(seen)
