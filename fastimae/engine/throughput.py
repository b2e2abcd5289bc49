"""Throughput of a loop over batches, timed after a warm-up."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from fastimae.engine.throttle import Throttle, synchronize


def throughput(
    use: Callable[[Any], object],
    batches: Iterator,
    device: torch.device,
    seconds: float,
    *,
    skip: int = 0,
    least: int = 1,
) -> tuple[float, float, int]:
    """Use batches for `seconds`, at least one. Return the seconds taken, how many of these were
    spent waiting for batches, and the number of batches.

    skip: batches of the warm-up, which may have been prefetched. The warm-up ends early once it has
    taken `seconds`, but not before `least` batches.
    """
    start = time.perf_counter()
    for number in range(1, skip + 1):
        use(next(batches))
        if number >= least and time.perf_counter() - start > seconds:
            break
    synchronize(device)
    throttle = Throttle(device)
    start, waited, count = time.perf_counter(), 0.0, 0
    while count < 1 or time.perf_counter() - start < seconds:
        before = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - before
        use(batch)
        throttle.wait()
        count += 1
    synchronize(device)
    return time.perf_counter() - start, waited, count
