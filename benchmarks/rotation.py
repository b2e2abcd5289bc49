"""Calls that take turns among input sets, so that none finds its data in the GPU's cache."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

CACHE_BYTES = 10**8
"""Twice the L2 of an H100: what a call touched so many bytes ago is no longer there."""
TIMED_BYTES = 2**30
"""What one timing should move: a third of a millisecond of an H100."""
MOST_SETS, MOST_CALLS = 64, 20


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
