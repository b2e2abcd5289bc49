"""Augmented training batches: timm's transforms, Mixup, CutMix, seeded by sample and step.

B = batch, C = channels, H, W = height and width, K = classes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from timm.data import Mixup
from torch import Tensor

from fastimae.engine.distributed import World
from fastimae.evaluate.images import Images
from fastimae.evaluate.labels.classification import ClassBatch, EpochLoader, StepSamples
from fastimae.loaders.errors import DataError
from fastimae.loaders.image_location import SkipImage
from fastimae.loaders.order.seeded import seeded
from fastimae.loaders.workers.worker_batches import batches_from_workers, check_workers
from fastimae.log import log
from fastimae.settings import StepSize

TRIES = 10
"""Images that are tried for a sample, before the data are taken to be broken."""
_MIXUP_STREAM = 1 << 40
"""Keeps the seeds of steps apart from those of samples."""
_Rest = tuple[NDArray, NDArray[np.int64], dict[int, str]]
"""Targets and indices, as in `ClassBatch`, and the reason for each broken image."""


class AugmentedLoader(EpochLoader):
    """Batches of augmented images, made by `num_workers` processes (0: this one).

    The augmentation of a sample is a function of (seed, epoch, sample), the mixing of a step one of
    (seed, epoch, step, rank). A broken image is replaced by the next one, and counted.
    """

    def __init__(
        self,
        images: Images,
        transform: Callable,
        mixup: Mixup | None,
        *,
        shape: tuple[int, int, int],
        batch_size: int,
        num_workers: int,
        pin_mem: bool,
        world: World,
        seed: int,
        accum_iter: int = StepSize.accum_iter,
        dtype: DTypeLike = np.float32,
    ) -> None:
        """transform: image -> [C, H, W], of the given shape and dtype. mixup: mixes a batch."""
        images.check_channels(shape[0])
        check_workers(num_workers)
        super().__init__(
            images.labels, batch_size=batch_size, world=world, seed=seed, accum_iter=accum_iter,
            data=images.digest,
        )  # fmt: skip
        self.make_step = _StepMaker(images, transform, mixup, shape[0], (seed, world.rank))
        self.shape, self.dtype, self.num_workers = shape, dtype, num_workers
        self.pin = pin_mem and world.device.type == "cuda"

    def _decode_steps(self, steps: Iterable[StepSamples]) -> Generator[ClassBatch, None, None]:
        batches = batches_from_workers(
            self.make_step,
            steps,
            shape=(self.batch_size, *self.shape),
            dtype=self.dtype,
            num_workers=self.num_workers,
            pin=self.pin,
        )
        with contextlib.closing(batches):
            for inputs, (targets, index, bad) in batches:
                for number, reason in bad.items():
                    self._log_once(number, reason)
                batch = ClassBatch(
                    inputs=inputs,
                    targets=torch.from_numpy(targets),
                    index=torch.from_numpy(index),
                )
                yield batch.pin_memory() if self.pin else batch

    def report(self) -> dict[str, int]:
        """Return the number of broken images so far."""
        return {"bad_samples": len(self.bad)}

    def _log_once(self, index: int, reason: str) -> None:
        if index not in self.bad:
            self.bad.add(index)
            log.warning("%s: image %d is replaced by the next: %s",
                        self.make_step.images.source, index, reason)  # fmt: skip


class _StepMaker:
    """Makes the batch of a step, in a worker process."""

    def __init__(
        self,
        images: Images,
        transform: Callable,
        mixup: Mixup | None,
        channels: int,
        seed: tuple[int, int],
    ) -> None:
        self.images, self.transform, self.mixup = images, transform, mixup
        self.channels, (self.seed, self.rank) = channels, seed

    def __call__(self, step: StepSamples, inputs: NDArray) -> _Rest:
        """Write the step's images to `inputs`, and return the rest of its batch."""
        bad: dict[int, str] = {}
        samples = [self._sample(step.epoch, int(index), bad) for index in step.index]
        views, labels, indices = zip(*samples, strict=True)
        into = torch.from_numpy(inputs)
        mixed, targets = torch.stack(views, out=into), torch.tensor(labels)
        if self.mixup:
            with seeded(self.seed, step.epoch, step.number, self.rank, _MIXUP_STREAM):
                mixed, targets = self.mixup(into, targets)
        if mixed is not into:
            into.copy_(mixed)
        return targets.numpy(), np.array(indices), bad

    def _sample(self, epoch: int, index: int, bad: dict[int, str]) -> tuple[Tensor, int, int]:
        """Return (view, label, index) of a sample, or of the next one that can be read."""
        for used in ((index + more) % len(self.images) for more in range(TRIES)):
            try:
                image = self.images.view(used, self.channels)
                with seeded(self.seed, epoch, index):
                    return self.transform(image), int(self.images.labels[used]), used
            except SkipImage as error:
                bad[used] = str(error)
        raise DataError(f"{self.images.source}: {TRIES} images from {index} on cannot be read")
