"""What a way of loading images has to do to be measured."""

from __future__ import annotations

import abc
import dataclasses
import importlib
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.loaders.images import ImageSet
from fastimae.loaders.crops import Crops
from fastimae.loaders.sampler import Endless, Sampler, Step
from fastimae.loaders.settings import LoaderSettings

CROPS = Crops(size=(224, 224))
"""What every contestant makes of an image; windows of 20 to 100 % of its area."""


class Missing(Exception):
    """A contestant cannot run here; the message says how to get what it needs."""


def need(module: str, name: str, how: str) -> None:
    """Import a library. Raises `Missing`, with how to get it."""
    try:
        importlib.import_module(module)
    except (ImportError, OSError) as error:
        raise Missing(f"no {name} ({error}): {how}") from error


def need_cuda() -> None:
    """Raises `Missing` where there is no GPU."""
    if not torch.cuda.is_available():
        raise Missing("needs a CUDA device")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """What to load, and how. Sent to the contestant's process."""

    images: ImageSet
    batch_size: int
    num_workers: int
    """Threads or processes."""
    seed: int
    crops: Crops = CROPS

    def batches_of_one_pass(self) -> int:
        """Batches after which every image has been shown once, but for the rest."""
        return len(self.images.subset) // self.batch_size


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pixels:
    """Images with what is needed to make them again."""

    images: NDArray[np.uint8]
    """[B, H, W, 3]."""
    index: NDArray[np.int64]
    """[B], samples of the .beton."""
    key: NDArray[np.int64]
    """[B], from which the windows were drawn."""


class Contestant(abc.ABC):
    """A way of loading images. Used in a process of its own, from one thread."""

    label: ClassVar[str]
    """What it stands for, in README's table, where its name is not enough."""
    what: ClassVar[str]
    """It, in some words."""
    exact: ClassVar[bool] = False
    """Whether its pixels must be Pillow's."""
    whole_batches: ClassVar[bool] = False
    """Whether each worker makes batches of its own, so that several get ready at once."""

    def __init__(self, job: Job) -> None:
        """Build the loader; counts as time to the first batch."""
        self.job = job

    @classmethod  # noqa: B027
    def prepare(cls) -> None:
        """Import what it needs. Raises `Missing` or ImportError if that is not there."""

    @abc.abstractmethod
    def batches(self) -> Iterator[Any]:
        """Batches of `job.batch_size` images without end, in random order and random windows."""

    @abc.abstractmethod
    def pixels(self, batches: Iterator[Any]) -> Iterator[Pixels] | None:
        """What it shows, of windows that are known; None if it cannot tell its windows.

        batches: what `batches` gave, under way.
        """

    def stage_times(self) -> dict[str, float] | None:
        """Seconds of all threads by stage since the start, and "images"; None if unknown."""
        return None

    def close(self) -> None:  # noqa: B027
        """Stop threads and processes."""


class EndlessSteps(Endless):
    """Steps of a subset of the samples, in place of a loader's sampler."""

    def __init__(self, job: Job, labels: NDArray[np.int64] | None = None) -> None:
        """labels: int64 [N] of all samples of the .beton."""
        self._subset = job.images.subset
        none = np.full(len(self._subset), -1)
        super().__init__(Sampler(none, LoaderSettings(batch_size=job.batch_size, seed=job.seed)))
        self.labels = labels

    def step(self, epoch: int, number: int) -> Step:
        step = super().step(epoch, number)
        return dataclasses.replace(step, index=self._subset[step.index])

    def __iter__(self) -> Iterator[Step]:
        return (self.step(0, number) for number in range(len(self)))
