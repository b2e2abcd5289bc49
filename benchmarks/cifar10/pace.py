"""How long runs take, and how many epochs fit into a time: pure functions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from fastimae.recipes import RECIPES

RECIPE = "imae_cifar10"
FULL = RECIPES[RECIPE]()["epochs"]
"""Epochs of the paper's pre-training, which its evaluations are shortened with."""


class Pace(NamedTuple):
    """The seconds that a run takes."""

    fixed: float
    """Of its start and its end."""
    epoch: float

    def seconds(self, epochs: float) -> float:
        """Return the seconds of a run of so many epochs."""
        return self.fixed + self.epoch * epochs


class Distance(NamedTuple):
    """How far a training is, and how fast it goes on."""

    trained: float
    """Epochs so far, with the part of the current one."""
    epochs: int
    """Epochs planned."""
    pace: Pace

    def seconds(self, level: float) -> float:
        """Return the seconds that it takes to have `level` epochs, or all if these are fewer."""
        more = min(level, self.epochs) - self.trained
        return self.pace.seconds(more) if more > 0 else 0.0


def pace_of(times: Sequence[float], seconds: float) -> Pace:
    """Return the pace of a run that took `seconds`, and ended epochs at these times of it."""
    if len(times) < 2:
        return Pace(seconds, 0.0)
    epoch = (times[-1] - times[0]) / (len(times) - 1)
    return Pace(max(seconds - epoch * len(times), 0.0), epoch)


def scaled(full: int, epochs: int) -> int:
    """Return the epochs of a run of `full` epochs if pre-training has `epochs` in place of FULL."""
    return max(1, round(full * epochs / FULL)) if full else 0


def choose_epochs(runs: Sequence[tuple[int, Pace]], seconds: float) -> int:
    """Return the most epochs of pre-training, 1 to FULL, with which all runs end in time.

    runs: the epochs of each, when pre-training has FULL, and its pace.
    """

    def cost(epochs: int) -> float:
        return sum(pace.seconds(scaled(full, epochs)) for full, pace in runs)

    return _largest(lambda epochs: cost(epochs) <= seconds)


def common_level(distances: Sequence[Distance], seconds: float) -> float:
    """Return the epochs that all can have after `seconds`, if those with fewer come first."""
    low, high = min(each.trained for each in distances), max(each.epochs for each in distances)
    if sum(each.seconds(high) for each in distances) <= seconds:
        return high
    for _ in range(40):
        middle = (low + high) / 2
        if sum(each.seconds(middle) for each in distances) <= seconds:
            low = middle
        else:
            high = middle
    return low


def started_in(distances: Sequence[Distance], seconds: float) -> int:
    """Return how many of these, the first ones, start within half of the time."""
    starts = itertools.accumulate(each.pace.fixed for each in distances)
    return sum(start <= seconds / 2 for start in starts)


def highest_level(distances: Sequence[Distance], count: int) -> float:
    """Return the epochs that the first `count` may get to while the others stay where they are:
    to theirs, if these are ahead by an epoch or more."""
    first = distances[0].trained
    ahead = (each.trained for each in distances[count:] if each.trained >= first + 1)
    return min(ahead, default=math.inf)


def reserve(evaluations: float, training: float, seconds: float) -> float:
    """Return the seconds to keep for evaluations, of the seconds that there are.

    evaluations, training: the seconds that all of these would take. Evaluations have all the time
    that training leaves, and a third if it would leave less.
    """
    return min(evaluations, max(seconds - training, seconds / 3))


def _largest(fits: Callable[[int], bool]) -> int:
    """Return the largest number of 1 to FULL that fits, 1 if none does; those below one fit too."""
    low, high = 1, FULL
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
