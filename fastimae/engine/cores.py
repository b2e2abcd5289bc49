"""Which CPU cores compute and which load data, so that neither takes a core from the other."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

CORES_PER_LOADER = 8
"""Cores for each one that only loads: a step takes far longer than loading its images."""


@dataclasses.dataclass(frozen=True)
class Cores:
    """Cores of the step's threads and of the loader's; the same ones if there are few."""

    compute: Sequence[int]
    load: Sequence[int]

    def pin(self) -> None:
        """Keep torch's threads on their cores. Call before the loader starts threads."""
        if self.compute == self.load:
            return
        torch.set_num_threads(len(self.compute))
        for thread in Path("/proc/self/task").iterdir():
            with contextlib.suppress(ProcessLookupError):  # the thread has ended
                os.sched_setaffinity(int(thread.name), self.compute)

    def batches(self, batches: Iterator[Any]) -> Iterator[Any]:
        """Yield the batches; threads and processes that the first one starts use `load` cores."""
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
    """Divide the cores for a step on the CPU that `workers` threads feed.

    One core in CORES_PER_LOADER loads. With fewer cores, all do both.
    """
    loading = min(workers, len(cores) // CORES_PER_LOADER)
    if not loading:
        return Cores(cores, cores)
    return Cores(cores[:-loading], cores[-loading:])


def cores_here(device: torch.device, workers: int) -> Cores:
    """Return the plan for this process. Nothing is pinned for a GPU, if OMP_NUM_THREADS is set, or
    if the system cannot pin threads."""
    if (
        device.type != "cpu"
        or "OMP_NUM_THREADS" in os.environ
        or not hasattr(os, "sched_setaffinity")
    ):
        return SHARED
    return plan_cores(sorted(os.sched_getaffinity(0)), workers)
