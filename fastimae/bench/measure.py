"""Speed measurements: of the loader alone, of the step alone, and of both together."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from fastimae.bench.options import changed, data_settings
from fastimae.build import RunModels, build_loader, build_objective
from fastimae.config import TrainConfig
from fastimae.engine.build_step import build_step
from fastimae.engine.distributed import World
from fastimae.engine.graph import causes
from fastimae.engine.memory import reset_memory
from fastimae.engine.throughput import throughput
from fastimae.loaders import Batch, DevicePrefetch, Loader
from fastimae.loaders.order.sampler import endless
from fastimae.models import MaskedAutoencoder

RATE = 1e-6
"""Learning rate of the measured steps."""
QUEUED = 5
"""Batches that may be prefetched before the clock starts."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Speed:
    """The result of a measurement."""

    img_per_s: float
    ms: float
    """Milliseconds per batch."""
    data_wait: float = 0.0
    """Share of the time spent waiting for data, 0..1."""
    memory_gb: float | None = None
    """Peak memory on a GPU."""
    took: float = 0.0
    """Seconds that measuring took, including building, compiling and recording the step."""


def loader_speed(config: TrainConfig, device: torch.device, seconds: float) -> Speed:
    """Measure the loader: batches of the data, without training. Raises DataError."""
    with endless(_loader(config, device)) as loader:
        return _speed(config, device, iter(loader), lambda batch: None, QUEUED, seconds)


def step_speed(config: TrainConfig, device: torch.device, seconds: float) -> Speed:
    """Measure steps on one batch of synthetic images that is already on the device.

    Raises torch.cuda.OutOfMemoryError if the batch does not fit, even if only while recording.
    """
    start = time.perf_counter()
    reset_memory(device)
    with _loader(changed(config, **data_settings(None)), device) as loader:
        batch = next(iter(loader)).to(device)
    train = training_step(config, device)
    speed = _speed(config, device, _repeat(batch), train, _warm_up(device), seconds)
    return dataclasses.replace(speed, took=time.perf_counter() - start)


def combined_speed(config: TrainConfig, device: torch.device, seconds: float) -> Speed:
    """Measure steps on batches of the data, as within an epoch of a run. Raises as `loader_speed`
    and `step_speed` do."""
    reset_memory(device)
    train = training_step(config, device)
    with DevicePrefetch(endless(_loader(config, device)), device) as loader:
        skip = max(QUEUED, _warm_up(device))
        return _speed(config, device, iter(loader), train, skip, seconds)


def training_step(config: TrainConfig, device: torch.device) -> Callable[[Batch], object]:
    """Build the training step of a run with these settings; teachers have random weights.

    The step raises torch.cuda.OutOfMemoryError if it, or its recording, does not fit.
    """
    objective = build_objective(config, _FreshModels(config))
    torch.compiler.reset()  # torch compiles a block only for a limited number of shapes
    step = build_step(objective, config.optim, config.optim, World(0, 1, device))

    def train(batch: Batch) -> None:
        step([batch], RATE)
        failure = getattr(step, "failure", None)
        chain = causes(failure) if failure else []
        if any(isinstance(cause, torch.cuda.OutOfMemoryError) for cause in chain):
            raise torch.cuda.OutOfMemoryError(str(failure)) from failure  # a run would continue

    return train


class _FreshModels(RunModels):
    """The models of a run, but without a need for a teacher's checkpoint."""

    def teacher(self, path: Path | None, *_: object, **__: object) -> MaskedAutoencoder:
        """Return a teacher of the student's size."""
        return self.fresh()


def _loader(config: TrainConfig, device: torch.device) -> Loader:
    return build_loader(config, World(0, 1, device), tell=False)


def _repeat(batch: Batch) -> Iterator[Batch]:
    while True:
        yield batch


def _warm_up(device: torch.device) -> int:
    """Return after how many steps full speed is reached: a GPU compiles and records first."""
    return 3 if device.type == "cuda" else 1


def _speed(
    config: TrainConfig,
    device: torch.device,
    batches: Iterator[Batch],
    use: Callable[[Batch], object],
    skip: int,
    seconds: float,
) -> Speed:
    with contextlib.closing(batches):
        least = min(skip, _warm_up(device))
        spent, waited, count = throughput(use, batches, device, seconds, skip=skip, least=least)
    size = config.optim.batch_size
    gpu = device.type == "cuda"
    return Speed(
        img_per_s=count * size / spent,
        ms=1e3 * spent / count,
        data_wait=waited / spent,
        memory_gb=torch.cuda.max_memory_allocated(device) / 1e9 if gpu else None,
    )
