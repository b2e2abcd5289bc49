"""Timing that can be trusted: variants interleaved, medians with quantiles, no warm caches.

A call is timed by one of two clocks: the host's, or the GPU's around replays of its recorded work.
Calls may rotate among input sets, so that none finds its data in the GPU's cache.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch

from fastimae.engine.graph import describe_chain, drop_tracebacks, record_cuda_graph
from fastimae.engine.throttle import synchronize

CACHE_BYTES = 10**8
"""Twice the L2 of an H100: what a call touched that many bytes ago has left the cache."""
TIMED_BYTES = 2**30
"""Bytes that one timing should move: a third of a millisecond on an H100."""
MOST_SETS, MOST_CALLS = 64, 20
Call = Callable[[], object]


class HostClock:
    """Seconds per call of several in a row, until the device is done: Python, launches and all."""

    timed: ClassVar[str] = "host clock"
    """Name of the clock in tables."""

    def __init__(self, call: Call, device: torch.device, calls: int) -> None:
        self.call, self.device, self.calls = call, device, calls

    def __call__(self) -> float:
        synchronize(self.device)
        start = time.perf_counter()
        repeat(self.call, self.calls)
        synchronize(self.device)
        return (time.perf_counter() - start) / self.calls


class ReplayClock:
    """CUDA events around the replay of a graph with `calls` calls: the GPU's work alone.

    The call must have run before. Raises RuntimeError if it cannot be captured, for example because
    it waits for the device.
    """

    timed: ClassVar[str] = "graph replays"

    def __init__(self, call: Call, calls: int) -> None:
        self.calls = calls
        self.replay = record_cuda_graph(lambda: repeat(call, calls))

    def __call__(self) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self.replay()  # runs while the timed one is queued, so that no gap is timed
        start.record()
        self.replay()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3 / self.calls


def clock_of(
    name: str, call: Call, device: torch.device, *, calls: int, warm_up: int, replays: bool
) -> HostClock | ReplayClock:
    """Warm a call up and return the clock for it.

    replays: time replays if the device is a GPU; a call that cannot be captured gets the host's
    clock, and the reason is printed to standard error.
    """
    if not replays or device.type != "cuda":
        repeat(call, warm_up)
        return HostClock(call, device, calls)
    _repeat_on_side_stream(call, warm_up)
    try:
        return ReplayClock(call, calls)
    except RuntimeError as error:
        print(f"{name}: by the host's clock: {describe_chain(error)}", file=sys.stderr)
        drop_tracebacks(error)
        return HostClock(call, device, calls)


def repeat(call: Call, times: int) -> None:
    """Run a call that many times."""
    for _ in range(times):
        call()


def _repeat_on_side_stream(call: Call, times: int) -> None:
    """Repeat on a separate stream, which torch requires before a capture."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        repeat(call, times)
    torch.cuda.current_stream().wait_stream(stream)


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds per call: the median and the 20 % and 80 % quantiles over the rounds so far."""

    median: float
    low: float
    high: float
    rounds: int
    timed: str
    """Which clock: "host clock" or "graph replays"."""


def in_rounds(
    variants: Mapping[str, Call],
    device: torch.device,
    *,
    rounds: int,
    calls: int = 1,
    warm_up: int = 2,
    replays: bool = False,
) -> Iterator[dict[str, Timing]]:
    """Time each variant `rounds` times, in turns, so that drift hits all alike.

    Yields the timings so far after each round. calls: how many in a row make one timing. replays:
    on a GPU, time a graph of them instead of the host that launches them, where the variant can be
    recorded (see `clock_of`).
    """
    clocks = {
        name: clock_of(name, call, device, calls=calls, warm_up=warm_up, replays=replays)
        for name, call in variants.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, clock in clocks.items():
            seconds[name].append(clock())
        yield {name: summarise(seconds[name], clock.timed) for name, clock in clocks.items()}


def interleaved(
    variants: Mapping[str, Call], device: torch.device, *, rounds: int, **settings: int
) -> dict[str, Timing]:
    """Return the timings after all rounds of `in_rounds`."""
    *_, timings = in_rounds(variants, device, rounds=rounds, **settings)
    return timings


def summarise(seconds: list[float], timed: str = HostClock.timed) -> Timing:
    """Compute median and quantiles of timings."""
    ordered = sorted(seconds)
    last = len(ordered) - 1
    return Timing(
        median=statistics.median(ordered),
        low=ordered[round(0.2 * last)],
        high=ordered[round(0.8 * last)],
        rounds=len(ordered),
        timed=timed,
    )


def sets_of(size: int, device: torch.device) -> int:
    """Count the input sets to rotate among for a call of `size` bytes; 1 if large enough."""
    if device.type != "cuda":
        return 1
    return min(math.ceil(CACHE_BYTES / size), MOST_SETS)


def calls_of(size: int, sets: int) -> int:
    """Count the calls of one timing; each set is used equally often."""
    return sets * max(1, min(math.ceil(TIMED_BYTES / (sets * size)), MOST_CALLS // sets))


class Turns:
    """A call that takes the next input set each time.

    Results are kept until the set's next turn, so that they do not share their memory either.
    """

    def __init__(self, call: Callable[[Any], object], sets: Sequence[Any]) -> None:
        self.call, self.sets = call, sets
        self.results: list[object] = [None] * len(sets)
        self.turn = 0

    def __call__(self) -> None:
        self.results[self.turn] = None
        self.results[self.turn] = self.call(self.sets[self.turn])
        self.turn = (self.turn + 1) % len(self.sets)
