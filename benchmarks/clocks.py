"""Two clocks for a call: the host's, and the GPU's around replays of its recorded work. And calls
that take turns among input sets, so that none finds its data in the GPU's cache."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch

from fastimae.engine.graph import in_one_line, let_go, record_cuda_graph
from fastimae.engine.throttle import synchronize

CACHE_BYTES = 10**8
"""Twice the L2 of an H100: what a call touched so many bytes ago is no longer there."""
TIMED_BYTES = 2**30
"""What one timing should move: a third of a millisecond of an H100."""
MOST_SETS, MOST_CALLS = 64, 20
Call = Callable[[], object]


class HostClock:
    """Seconds of one of some calls in a row, from before the first to when the device is done:
    Python, launches and all."""

    timed: ClassVar[str] = "host clock"
    """By what, for the table."""

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

    What is captured has to have run before. Raises RuntimeError if it cannot be captured, as where
    it waits for the device.
    """

    timed: ClassVar[str] = "graph replays"

    def __init__(self, call: Call, calls: int) -> None:
        self.calls = calls
        self.replay = record_cuda_graph(lambda: repeat(call, calls))

    def __call__(self) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self.replay()  # the GPU is at this one while the timed one is queued: no gap is timed
        start.record()
        self.replay()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3 / self.calls


def clock_of(
    name: str, call: Call, device: torch.device, *, calls: int, warm_up: int, replays: bool
) -> HostClock | ReplayClock:
    """The clock for a call, which is warmed up for it.

    replays: time replays where the device is a GPU; a call that cannot be captured gets the host's
    clock, and standard error says why.
    """
    if not replays or device.type != "cuda":
        repeat(call, warm_up)
        return HostClock(call, device, calls)
    _repeat_beside(call, warm_up)
    try:
        return ReplayClock(call, calls)
    except RuntimeError as error:
        print(f"{name}: by the host's clock: {in_one_line(error)}", file=sys.stderr)
        let_go(error)
        return HostClock(call, device, calls)


def repeat(call: Call, times: int) -> None:
    """Call it so many times."""
    for _ in range(times):
        call()


def _repeat_beside(call: Call, times: int) -> None:
    """The same on a stream of its own, as torch asks of what is captured next."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        repeat(call, times)
    torch.cuda.current_stream().wait_stream(stream)


def sets_of(size: int, device: torch.device) -> int:
    """Input sets to rotate among, for a call that moves `size` bytes; 1 where it moves enough."""
    if device.type != "cuda":
        return 1
    return min(math.ceil(CACHE_BYTES / size), MOST_SETS)


def calls_of(size: int, sets: int) -> int:
    """Calls of one timing, each set as often as the others."""
    return sets * max(1, min(math.ceil(TIMED_BYTES / (sets * size)), MOST_CALLS // sets))


class Turns:
    """A call that takes the next input set each time; results stay until the set's next turn, so
    that they do not share their memory either."""

    def __init__(self, call: Callable[[Any], object], sets: Sequence[Any]) -> None:
        self.call, self.sets = call, sets
        self.results: list[object] = [None] * len(sets)
        self.turn = 0

    def __call__(self) -> None:
        self.results[self.turn] = None
        self.results[self.turn] = self.call(self.sets[self.turn])
        self.turn = (self.turn + 1) % len(self.sets)
