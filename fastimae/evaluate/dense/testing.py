"""What the tests of dense tasks share: images are read ahead, broken ones are counted."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from fastimae.engine.distributed import World
from fastimae.evaluate.options.dense import DenseOptions
from fastimae.loaders.image_location import SkipImage
from fastimae.loaders.workers.read_ahead import start_ahead, thread_pool
from fastimae.log import log
from fastimae.progress import Meter


class DenseTester(abc.ABC):
    """Tests a model on images that the ranks share."""

    def __init__(
        self, student: nn.Module, scenes: Any, options: DenseOptions, world: World
    ) -> None:
        """Begin with no scores. student: on the world's device. scenes: to test on.

        options: see `settled`.
        """
        self.student, self.scenes, self.options, self.world = student, scenes, options, world
        self.scores: dict[str, Any] = {}
        """Of the last test."""
        self.broken: dict[int, str] = {}
        """Images that this rank could not read, and why."""

    @abc.abstractmethod
    def test(self, *, quiet: bool = True) -> dict[str, float]:
        """Test on all images; return the scores for the log. quiet: show no progress."""

    @abc.abstractmethod
    def view(self, number: int) -> Any:
        """Read an image, as the test needs it. Raises SkipImage."""

    def share(self, *, quiet: bool) -> Iterator[Any]:
        """Yield this rank's share of the images that can be read. quiet: show no progress."""
        numbers = range(self.world.rank, len(self.scenes), self.world.size)
        with Meter(len(numbers), "test", "image", quiet=quiet or not self.world.is_main) as meter:
            for read in self.read(numbers):
                if read is not None:
                    yield read
                meter.update()

    def read(self, numbers: Sequence[int]) -> Iterator[Any | None]:
        """Read images ahead, in threads; None for a broken one, which is counted."""
        workers = self.options.worker_count()
        with thread_pool(workers) as pool:
            tasks = start_ahead(lambda number: pool.submit(self._read, number), numbers, workers)
            yield from (task.result() for task in tasks)

    def broken_images(self) -> int:
        """Return how many images no rank could read; all ranks must call it."""
        count = torch.tensor(float(len(self.broken)), device=self.world.device)
        return round(float(self.world.mean(count)) * self.world.size)

    def _read(self, number: int) -> Any | None:
        try:
            return self.view(number)
        except SkipImage as error:
            if number not in self.broken:
                log.warning("%s is skipped: %s", self.scenes.name(number), error)
            self.broken[number] = str(error)
            return None
