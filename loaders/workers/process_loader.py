"""Base of loaders that decode in worker processes, each of which makes whole batches.

Dimensions: B images in a batch, n rows of it, H height, W width, C channels.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastimae.loaders.base import DecodedStep, Loader
from fastimae.loaders.images.crops import Crops
from fastimae.loaders.images.decode import Failures, Pixels, decode_replacements
from fastimae.loaders.workers.worker_batches import batches_from_workers, check_workers

if TYPE_CHECKING:
    from fastimae.loaders.order.sampler import BatchPlan, Sampler

ROWS_AT_ONCE = 16
"""Images that a worker holds at once, as one call draws the crops of several."""


class StepResult(NamedTuple):
    """What a worker returns of a step, beside its pixels: fields of `DecodedStep`."""

    index: NDArray[np.int64]
    bad: dict[int, str]
    labels: NDArray[np.int64] | None = None


class StepDecoder(abc.ABC):
    """The work of a worker process: decode one step."""

    def __init__(self, crops: Crops) -> None:
        self.crops = crops

    @abc.abstractmethod
    def decode_rows(
        self, index: NDArray[np.int64], key: NDArray[np.int64], out: Pixels
    ) -> Failures:
        """Write the crops of samples `index` [n], drawn from `key` [n], to `out` [n, H, W, C]."""

    def __call__(self, step: BatchPlan, pixels: Pixels) -> StepResult:
        """Decode a step into `pixels`, [B, H, W, C]."""
        index, key = step.index, step.key
        failures: Failures = {}
        for first in range(0, len(index), ROWS_AT_ONCE):
            rows = slice(first, first + ROWS_AT_ONCE)
            failed = self.decode_rows(index[rows], key[rows], pixels[rows])
            failures.update({first + row: reason for row, reason in failed.items()})
        used, rows, replacements = decode_replacements(
            self.decode_rows, self.crops, index, key, failures
        )
        pixels[rows] = replacements
        return StepResult(used, {int(index[row]): reason for row, reason in failures.items()})


class ProcessLoader(Loader):
    """Runs `decoder` in `num_workers` processes; 0: in this one."""

    def __init__(
        self,
        decoder: StepDecoder,
        sampler: Sampler,
        *,
        num_workers: int,
        max_bad_samples: int,
        pin_mem: bool,
    ) -> None:
        crops = decoder.crops
        super().__init__(
            sampler,
            crops.shape,
            dtype=crops.dtype,
            max_bad_samples=max_bad_samples,
            pin_mem=pin_mem,
        )
        check_workers(num_workers)
        self.decoder, self.num_workers = decoder, num_workers

    def _change_size(self, size: tuple[int, int]) -> None:
        super()._change_size(size)
        self.decoder.crops = dataclasses.replace(self.decoder.crops, size=size)

    def _decode_steps(self, steps: Iterable[BatchPlan]) -> Iterator[DecodedStep]:
        batches = batches_from_workers(
            self.decoder,
            steps,
            shape=(self.sampler.batch_size, *self.shape),
            dtype=self.dtype,
            num_workers=self.num_workers,
            pin=self.pin,
        )
        with contextlib.closing(batches):
            for pixels, result in batches:
                yield DecodedStep(images=pixels, **result._asdict())
