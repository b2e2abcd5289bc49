"""The interface of a loader that can be measured: the base class of all loaders under test."""

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
from fastimae.loaders.images.crops import Crops
from fastimae.loaders.order.sampler import BatchPlan, Endless, Sampler
from fastimae.loaders.settings import LoaderSettings

CROPS = Crops(size=(224, 224))
"""What every loader makes of an image: windows of 20 to 100 % of its area."""


class Missing(Exception):
    """A loader cannot run here; the message says how to get what it needs."""


def need(module: str, name: str, how: str) -> None:
    """Import a library. Raises `Missing`, which says how to get it."""
    try:
        importlib.import_module(module)
    except (ImportError, OSError) as error:
        raise Missing(f"no {name} ({error}): {how}") from error


def need_cuda() -> None:
    """Raise `Missing` if there is no GPU."""
    if not torch.cuda.is_available():
        raise Missing("needs a CUDA device")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoadJob:
    """What to load, and how. It is sent to the loader's process."""

    images: ImageSet
    batch_size: int
    num_workers: int
    """Threads or processes."""
    seed: int
    crops: Crops = CROPS

    def batches_of_one_pass(self) -> int:
        """Count the full batches of one pass over the images."""
        return len(self.images.subset) // self.batch_size


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pixels:
    """Decoded images, and what is needed to decode them again."""

    images: NDArray[np.uint8]
    """[B, H, W, 3]."""
    index: NDArray[np.int64]
    """[B], numbers of the samples in the .beton."""
    key: NDArray[np.int64]
    """[B], keys from which the windows were drawn."""


class LoaderUnderTest(abc.ABC):
    """A way of loading images. It runs in its own process, and is used from one thread."""

    label: ClassVar[str]
    """How it is used, for the README's table, where the name does not say it."""
    what: ClassVar[str]
    """A description in a few words."""
    exact: ClassVar[bool] = False
    """Whether its pixels must equal Pillow's."""
    whole_batches: ClassVar[bool] = False
    """Whether each worker makes whole batches, so that several are ready at once."""

    def __init__(self, job: LoadJob) -> None:
        """Build the loader; that counts as time to the first batch."""
        self.job = job

    @classmethod  # noqa: B027
    def prepare(cls) -> None:
        """Import what it needs. Raises `Missing` or ImportError."""

    @abc.abstractmethod
    def batches(self) -> Iterator[Any]:
        """Yield batches of `job.batch_size` random windows endlessly, in random order."""

    @abc.abstractmethod
    def pixels(self, batches: Iterator[Any]) -> Iterator[Pixels] | None:
        """Yield decoded images of known windows; None if the loader does not report its windows.

        batches: the iterator from `batches`, in use.
        """

    def stage_times(self) -> dict[str, float] | None:
        """Return all threads' seconds by stage since the start, and "images"; None if unknown."""
        return None

    def close(self) -> None:  # noqa: B027
        """Stop threads and processes."""


class EndlessSteps(Endless):
    """Endless steps over a subset of the samples; replaces a loader's sampler."""

    def __init__(self, job: LoadJob, labels: NDArray[np.int64] | None = None) -> None:
        """labels: int64 [N], of all samples of the .beton."""
        self._subset = job.images.subset
        none = np.full(len(self._subset), -1)
        super().__init__(Sampler(none, LoaderSettings(batch_size=job.batch_size, seed=job.seed)))
        self.labels = labels

    def step(self, epoch: int, number: int) -> BatchPlan:
        step = super().step(epoch, number)
        return dataclasses.replace(step, index=self._subset[step.index])

    def __iter__(self) -> Iterator[BatchPlan]:
        return (self.step(0, number) for number in range(len(self)))
