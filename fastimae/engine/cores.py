"""Which CPU cores compute and which load, so that neither moves the other off its core."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

CORES_PER_LOADER = 8


@dataclasses.dataclass(frozen=True)
class Cores:
    """Cores of the step's threads, and of the loader's; the same ones where there are few."""

    compute: Sequence[int]
    load: Sequence[int]

    def pin(self) -> None:
        """Keep torch's threads on their cores. Call before the loader starts threads."""
        if self.compute == self.load:
            return
        torch.set_num_threads(len(self.compute))
        for thread in Path("/proc/self/task").iterdir():
            with contextlib.suppress(ProcessLookupError):  # a thread that has ended meanwhile
                os.sched_setaffinity(int(thread.name), self.compute)

    def batches(self, batches: Iterator[Any]) -> Iterator[Any]:
        """The same batches; threads and processes that the first one starts load elsewhere."""
        if self.compute == self.load:
            yield from batches
            return
        os.sched_setaffinity(0, self.load)  # new threads inherit it
        try:
            first = next(batches, None)
        finally:
            os.sched_setaffinity(0, self.compute)
        if first is not None:
            yield first
            yield from batches


SHARED = Cores((), ())


def plan_cores(cores: Sequence[int], workers: int) -> Cores:
    """Cores for a step on the CPU that `workers` threads feed.

    A step takes far longer than its images take to load, so one core in CORES_PER_LOADER loads,
    and none has to where there are fewer.
    """
    loading = min(workers, len(cores) // CORES_PER_LOADER)
    if not loading:
        return Cores(cores, cores)
    return Cores(cores[:-loading], cores[-loading:])


def cores_here(device: torch.device, workers: int) -> Cores:
    """The plan for this process; nothing is pinned for a GPU, where OMP_NUM_THREADS is set, or
    where the system cannot do it."""
    if (
        device.type != "cpu"
        or "OMP_NUM_THREADS" in os.environ
        or not hasattr(os, "sched_setaffinity")
    ):
        return SHARED
    return plan_cores(sorted(os.sched_getaffinity(0)), workers)
