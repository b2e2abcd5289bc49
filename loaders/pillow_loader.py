"""A `.beton` file decoded by Pillow in a pool of threads: exact, portable, needs nothing built."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, Future

import torch
from PIL import Image
from torch import Tensor

from fastimae.loaders.base import Shown
from fastimae.loaders.beton import BetonReader
from fastimae.loaders.beton_loader import BetonLoader
from fastimae.loaders.crops import Crops
from fastimae.loaders.decode import Failures, decode_rows, replace_failures
from fastimae.loaders.items import SkipImage
from fastimae.loaders.limits import check_pixels, open_image
from fastimae.loaders.read_ahead import started_ahead, threads
from fastimae.loaders.sampler import Sampler, Step

BATCHES_AHEAD = 2
MAX_ROWS_PER_TASK = 16


def check_sample(reader: BetonReader, index: int) -> None:
    """Raise SkipImage for a sample that is bad whoever decodes it, or over the limit of pixels."""
    check_pixels(int(reader.widths[index]), int(reader.heights[index]))
    problem = reader.problem(index)
    if problem is not None:
        raise SkipImage(problem)


def open_sample(reader: BetonReader, index: int) -> Image.Image:
    """Sample `index` as an image. Raises if it is bad, over the limit of pixels, or not as large as
    the file's table says."""
    check_sample(reader, index)
    size = int(reader.widths[index]), int(reader.heights[index])
    data = reader.read(index)
    if not reader.is_jpeg[index]:
        return Image.frombytes("RGB", size, data)
    image = open_image(data, ["JPEG"])
    if image.size != size:
        raise SkipImage(f"it has {image.size} pixels, the file's table says {size}")
    return image


class PillowLoader(BetonLoader):
    """A loader with `num_workers` Python threads (0: the calling one).

    In memory are the batch asked for, `BATCHES_AHEAD` more, and one decoded image a thread.
    """

    def __init__(
        self, reader: BetonReader, sampler: Sampler, crops: Crops, **settings: int
    ) -> None:
        super().__init__(reader, sampler, crops, **settings)
        self._open = functools.partial(open_sample, reader)

    def _show(self, steps: Iterable[Step]) -> Iterator[Shown]:
        ahead = BATCHES_AHEAD if self.num_workers else 0
        with threads(self.num_workers) as pool:
            start = functools.partial(self._start, pool)
            yield from map(self._finish, started_ahead(start, steps, ahead))

    def _start(self, pool: Executor, step: Step) -> _Started:
        count = len(step.index)
        images = torch.empty((count, *self.crops.shape), dtype=torch.uint8, pin_memory=self.pin)
        out = images.numpy()
        size = min(MAX_ROWS_PER_TASK, max(1, count // max(1, self.num_workers)))
        tasks = {}
        for first in range(0, count, size):
            rows = slice(first, first + size)
            tasks[first] = pool.submit(
                decode_rows, self._open, self.crops, step.index[rows], step.key[rows], out[rows]
            )
        return _Started(step=step, images=images, tasks=tasks)

    def _finish(self, started: _Started) -> Shown:
        step, images = started.step, started.images
        failures: Failures = {
            first + row: reason
            for first, task in started.tasks.items()
            for row, reason in task.result().items()
        }
        shown = replace_failures(
            self._open, self.crops, step.index, step.key, images.numpy(), failures
        )
        bad = {int(step.index[row]): reason for row, reason in failures.items()}
        return Shown(images=images, index=shown, bad=bad)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Started:
    """A step under way."""

    step: Step
    images: Tensor
    tasks: dict[int, Future[Failures]]
    """First row of each task -> the rows of it that failed."""
