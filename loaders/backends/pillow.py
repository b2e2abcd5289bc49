"""A `.beton` file decoded by Pillow in threads (`--decoder pillow`): exact, and nothing to build.

Dimensions: B images in a batch, H height, W width, C channels.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, Future

import torch
from torch import Tensor

from fastimae.loaders.base import DecodedStep
from fastimae.loaders.beton.image import open_sample
from fastimae.loaders.beton.loader import BetonLoader
from fastimae.loaders.beton.reader import BetonReader
from fastimae.loaders.images.crops import Crops
from fastimae.loaders.images.decode import DecodeRows, Failures, decode_rows, replace_failures
from fastimae.loaders.order.sampler import BatchPlan, Sampler
from fastimae.loaders.workers.buffers import torch_dtype
from fastimae.loaders.workers.read_ahead import start_ahead, thread_pool

BATCHES_AHEAD = 2
"""Batches that are made while the caller uses the current one."""
MAX_ROWS_PER_TASK = 16


class PillowLoader(BetonLoader):
    """A loader with `num_workers` Python threads; 0: the calling thread decodes.

    Its memory holds the current batch, `BATCHES_AHEAD` more, and one decoded image per thread.
    """

    def __init__(
        self, reader: BetonReader, sampler: Sampler, crops: Crops, **settings: int
    ) -> None:
        super().__init__(reader, sampler, crops, **settings)
        self._open = functools.partial(open_sample, reader)

    def rows_decoder(self, crops: Crops) -> DecodeRows:
        """See `Source` of device/store.py."""
        return functools.partial(decode_rows, self._open, crops)

    def _decode_steps(self, steps: Iterable[BatchPlan]) -> Iterator[DecodedStep]:
        ahead = BATCHES_AHEAD if self.num_workers else 0
        with thread_pool(self.num_workers) as pool:
            start = functools.partial(self._start, pool)
            yield from map(self._finish, start_ahead(start, steps, ahead))

    def _start(self, pool: Executor, step: BatchPlan) -> _StepTasks:
        count = len(step.index)
        images = torch.empty(
            (count, *self.crops.shape), dtype=torch_dtype(self.dtype), pin_memory=self.pin
        )
        out = images.numpy()
        size = min(MAX_ROWS_PER_TASK, max(1, count // max(1, self.num_workers)))
        tasks = {}
        for first in range(0, count, size):
            rows = slice(first, first + size)
            tasks[first] = pool.submit(
                decode_rows, self._open, self.crops, step.index[rows], step.key[rows], out[rows]
            )
        return _StepTasks(step=step, images=images, tasks=tasks)

    def _finish(self, submitted: _StepTasks) -> DecodedStep:
        step, images = submitted.step, submitted.images
        failures: Failures = {
            first + row: reason
            for first, task in submitted.tasks.items()
            for row, reason in task.result().items()
        }
        decoded = replace_failures(
            self._open, self.crops, step.index, step.key, images.numpy(), failures
        )
        bad = {int(step.index[row]): reason for row, reason in failures.items()}
        return DecodedStep(images=images, index=decoded, bad=bad)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _StepTasks:
    """A step whose rows are decoded by tasks of the pool."""

    step: BatchPlan
    images: Tensor
    """[B, H, W, C], filled by the tasks."""
    tasks: dict[int, Future[Failures]]
    """First row of each task -> its failures, by row from that first one."""
