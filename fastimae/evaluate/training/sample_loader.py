"""Batches of samples that worker processes make, of any task: images with targets of any form.

B = batch, C, H, W = channels, height, width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, DTypeLike, NDArray
from torch import Tensor

from fastimae.engine.distributed import World
from fastimae.evaluate.training.batches import EpochLoader, LabelledBatch, StepSamples
from fastimae.loaders.errors import DataError
from fastimae.loaders.image_location import SkipImage
from fastimae.loaders.nested import mapped
from fastimae.loaders.order.philox import KeyStream, derive_keys
from fastimae.loaders.order.seeded import seeded
from fastimae.loaders.workers.worker_batches import batches_from_workers, check_workers
from fastimae.log import log
from fastimae.settings import StepSize

TRIES = 10
"""Images that are tried for a sample, before the data are taken to be broken."""
MakeSample = Callable[[int, int], tuple[NDArray | Tensor, Any]]
"""(epoch, index) -> (inputs [C, H, W], target)."""
Collate = Callable[[list[Any]], Any]
Mix = Callable[[StepSamples, Tensor, Any], Any]
"""(step, inputs [B, C, H, W] to change in place, targets) -> targets."""
_Rest = tuple[Any, NDArray[np.int64], dict[int, str]]
"""Targets and indices, as in `LabelledBatch`, and the reason for each broken image."""


class SampleLoader(EpochLoader):
    """Batches of samples, made by `num_workers` processes (0: this one).

    A sample is a function of (seed, epoch, index), whichever process makes it. A broken image is
    replaced by the next one, and counted.
    """

    def __init__(
        self,
        make_sample: MakeSample,
        samples: int,
        *,
        shape: tuple[int, int, int],
        batch_size: int,
        num_workers: int,
        pin_mem: bool,
        world: World,
        seed: int,
        data: int,
        source: object,
        accum_iter: int = StepSize.accum_iter,
        dtype: DTypeLike = np.float32,
        collate: Collate = list,
        mix: Mix | None = None,
    ) -> None:
        """Check the settings; no process starts before the first batch is asked for.

        make_sample: (epoch, index) -> (inputs of `shape` and `dtype`, target); raises SkipImage for
            a broken image. The generators of Python, NumPy and torch, from which transforms of
            libraries draw, are seeded with (seed, epoch, sample) around it. The target is pickled:
            a number, an array, or lists and dicts of arrays, of a few MB at most.
        samples: how many there are. data: `digest_of` them. source: their file or folder.
        collate: targets of a batch -> `LabelledBatch.targets`, such as `np.stack`; arrays become
            tensors. By default a list.
        mix: changes a whole batch, see `Mix`.
        """
        check_workers(num_workers)
        super().__init__(
            samples, batch_size=batch_size, world=world, seed=seed, accum_iter=accum_iter, data=data
        )
        self.make_step = _StepMaker(make_sample, samples, seed, str(source), collate, mix)
        self.shape, self.dtype, self.num_workers = shape, dtype, num_workers
        self.pin = pin_mem and world.device.type == "cuda"

    def _decode_steps(self, steps: Iterable[StepSamples]) -> Generator[LabelledBatch, None, None]:
        batches = batches_from_workers(
            self.make_step,
            steps,
            shape=(self.batch_size, *self.shape),
            dtype=self.dtype,
            num_workers=self.num_workers,
            pin=self.pin,
        )
        with contextlib.closing(batches):
            for inputs, (targets, index, key, bad) in batches:
                for number, reason in bad.items():
                    self._log_once(number, reason)
                batch = LabelledBatch(
                    inputs=inputs,
                    targets=mapped(targets, _tensor, np.ndarray),
                    index=torch.from_numpy(index),
                    key=torch.from_numpy(key),
                )
                yield batch.pin_memory() if self.pin else batch

    def report(self) -> dict[str, int]:
        """Return the number of broken images so far."""
        return {"bad_samples": len(self.bad)}

    def _log_once(self, index: int, reason: str) -> None:
        if index not in self.bad:
            self.bad.add(index)
            log.warning("%s: image %d is replaced by the next: %s",
                        self.make_step.source, index, reason)  # fmt: skip


class _StepMaker:
    """Makes the batch of a step, in a worker process."""

    def __init__(
        self,
        make_sample: MakeSample,
        samples: int,
        seed: int,
        source: str,
        collate: Collate,
        mix: Mix | None,
    ) -> None:
        self.make_sample, self.samples, self.seed = make_sample, samples, seed
        self.source, self.collate, self.mix = source, collate, mix

    def __call__(self, step: StepSamples, inputs: NDArray) -> _Rest:
        """Write the step's samples to `inputs`, and return the rest of its batch."""
        bad: dict[int, str] = {}
        into = torch.from_numpy(inputs)
        samples = [
            self._sample(step.epoch, int(index), view, bad)
            for index, view in zip(step.index, into, strict=True)
        ]
        targets, used = map(list, zip(*samples, strict=True))
        targets = self.collate(targets)
        if self.mix:
            targets = self.mix(step, into, targets)
        # As arrays: torch sends tensors through /dev/shm, of which a container has little.
        arrays = mapped(targets, Tensor.numpy)
        key = derive_keys(self.seed, step.index, step.epoch, KeyStream.SAMPLE)
        return arrays, np.array(used), key, bad

    def _sample(self, epoch: int, index: int, into: Tensor, bad: dict[int, str]) -> tuple[Any, int]:
        """Write a sample, or the next one that can be read, to `into`; return (target, index)."""
        for used in ((index + more) % self.samples for more in range(TRIES)):
            try:
                with seeded(self.seed, epoch, index):
                    view, target = self.make_sample(epoch, used)
            except SkipImage as error:
                bad[used] = str(error)
                continue
            view = _tensor(view) if isinstance(view, np.ndarray) else view
            if view.shape != into.shape:
                raise ValueError(
                    f"sample {used} is {list(view.shape)}, and the loader's {list(into.shape)}"
                )
            into.copy_(view)
            return target, used
        raise DataError(f"{self.source}: {TRIES} images from {index} on cannot be read")


def _tensor(array: NDArray) -> Tensor:
    """Return an array as a tensor; also a flipped view, or memory that must not be written to."""
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


def stacked(targets: Sequence[ArrayLike]) -> NDArray:
    """Return targets of one shape as one array: a `collate` for labels and masks."""
    return np.stack([np.asarray(target) for target in targets])
