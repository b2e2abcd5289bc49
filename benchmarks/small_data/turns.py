"""Loaders alone, and steps that they feed: what is called in a timing, and timings in turns."""

from __future__ import annotations

import dataclasses
import itertools
import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from benchmarks.loaders.usage import settle
from benchmarks.small_data.ways import Opened
from benchmarks.train.fastimae_step import RATE
from fastimae.config import TrainConfig
from fastimae.engine.build_step import build_step
from fastimae.engine.distributed import World
from fastimae.engine.graph import record_cuda_graph
from fastimae.engine.resident_step import STEPS_PER_GRAPH, ResidentStep
from fastimae.engine.step import Step
from fastimae.engine.throughput import throughput
from fastimae.loaders.resident import ResidentEpoch
from fastimae.objectives import Objective

QUEUED = 40
"""Batches that may be ready when a timing begins; its warm-up uses them up, or ends by its time."""


@dataclasses.dataclass(kw_only=True)
class Turn:
    """Work that is timed: `use` is called for each of `items`."""

    items: Iterator[Any]
    use: Callable[[Any], object]
    images: int
    """Of a call."""
    speeds: list[float] = dataclasses.field(default_factory=list)
    """Images per second of each round."""
    waited: float = 0.0
    """Share of the last round that was spent waiting for a batch."""

    @property
    def speed(self) -> float:
        """Images per second, the median of the rounds."""
        return statistics.median(self.speeds)


class InBlocks:
    """Calls for `count` batches of a resident epoch each; epochs follow each other.

    What is left of an epoch that is shorter than `count` batches is skipped.
    """

    def __init__(self, resident: ResidentEpoch, per_epoch: int, count: int) -> None:
        self.resident, self.per_epoch, self.count = resident, per_epoch, count
        self.epoch = self.step = 0

    def __iter__(self) -> Iterator[int]:
        """Yield `count` again and again, when the epoch has so many batches to take."""
        for epoch in itertools.count():
            self.resident.begin(epoch, 0)
            for _ in range(self.per_epoch // self.count):
                yield self.count
                self.resident.advance(self.count)


def loading(opened: Opened, batch_size: int, device: torch.device) -> Turn:
    """Return the work of a loader alone."""
    if opened.resident is None:
        return Turn(items=opened.batches, use=lambda _: None, images=batch_size)
    resident, count = opened.resident, min(STEPS_PER_GRAPH, opened.per_epoch)
    resident.begin(0, 0)

    def make() -> None:
        for _ in range(count):
            resident.batch()

    make()  # compiles kernels
    block = record_cuda_graph(make) if device.type == "cuda" else make
    items = iter(InBlocks(resident, opened.per_epoch, count))
    return Turn(items=items, use=lambda _: block(), images=count * batch_size)


def training(opened: Opened, objective: Objective, batch_size: int, device: torch.device) -> Turn:
    """Return the work of the step that fastimae-train builds for a loader, fed by it."""
    config = TrainConfig()
    # Of a loader it asks whether the device makes the batches.
    step = build_step(objective, config.optim, config.optim, World(0, 1, device), opened)
    if opened.resident is None:
        return Turn(items=opened.batches, use=lambda batch: take(step, batch), images=batch_size)
    count = min(STEPS_PER_GRAPH, opened.per_epoch)
    if isinstance(step, ResidentStep) and step.prepare_whole(opened.resident, 0, count):
        items = iter(InBlocks(opened.resident, opened.per_epoch, count))
        return Turn(items=items, use=lambda _: step.take([RATE] * count), images=count * batch_size)
    items = iter(InBlocks(opened.resident, opened.per_epoch, 1))
    return Turn(items=items, use=lambda _: take(step, opened.resident.batch()), images=batch_size)


def take(step: Step, batch: object) -> None:
    """Take a step on one batch."""
    step.advance(batch, RATE, last=True)


def in_turns(
    turns: Sequence[Turn], device: torch.device, rounds: int, seconds: float
) -> Iterator[None]:
    """Time all, one after the other, `rounds` times. Yields after each round.

    A turn begins when no loader works ahead any more.
    """
    least = 3 if device.type == "cuda" else 1  # a GPU compiles and records
    for _ in range(rounds):
        for turn in turns:
            settle(os.getpid())
            spent, waited, count = throughput(
                turn.use, turn.items, device, seconds, skip=QUEUED, least=least
            )
            turn.speeds.append(count * turn.images / spent)
            turn.waited = waited / spent
        yield
