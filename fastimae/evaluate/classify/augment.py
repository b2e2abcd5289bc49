"""Augmented training batches: timm's transforms, Mixup and CutMix, seeded by sample and step.

B = batch, C = channels, H, W = height and width, K = classes.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Generator, Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from timm.data import Mixup
from torch import Tensor

from fastimae.engine.distributed import World
from fastimae.evaluate.classify.classification import ClassBatch, EpochLoader, Step
from fastimae.evaluate.images import Images
from fastimae.loaders.errors import DataError
from fastimae.loaders.items import SkipImage
from fastimae.loaders.pixels import MODES
from fastimae.loaders.worker_batches import check_workers, made_by_workers
from fastimae.log import log
from fastimae.settings import StepSize

TRIES = 10
_MIXUP_STREAM = 1 << 40
"""Tells a step's seed from a sample's."""
_Rest = tuple[NDArray, NDArray[np.int64], dict[int, str]]
"""Targets and indices, as in `ClassBatch`, and which images were broken, and why."""


class AugmentedLoader(EpochLoader):
    """Batches of augmented images on the device, made by `num_workers` processes (0: this one).

    What a sample becomes is a function of (seed, epoch, sample), how a step is mixed one of
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
    ) -> None:
        """transform: PIL image -> float [C, H, W], of this shape. mixup: changes a batch and its
        labels."""
        check_workers(num_workers)
        super().__init__(
            images.labels, batch_size=batch_size, world=world, seed=seed, accum_iter=accum_iter,
            data=images.digest,
        )  # fmt: skip
        self.steps = _Steps(images, transform, mixup, shape[0], (seed, world.rank))
        self.shape, self.num_workers = shape, num_workers
        self.pin = pin_mem and world.device.type == "cuda"

    def _show(self, steps: Iterable[Step]) -> Generator[ClassBatch, None, None]:
        made = made_by_workers(
            self.steps,
            steps,
            shape=(self.batch_size, *self.shape),
            dtype=np.float32,
            num_workers=self.num_workers,
            pin=self.pin,
        )
        with contextlib.closing(made):
            for inputs, (targets, index, bad) in made:
                for number, reason in bad.items():
                    self._note(number, reason)
                batch = ClassBatch(
                    inputs=inputs,
                    targets=torch.from_numpy(targets),
                    index=torch.from_numpy(index),
                )
                yield batch.pin_memory() if self.pin else batch

    def report(self) -> dict[str, int]:
        """The number of broken images so far."""
        return {"bad_samples": len(self.bad)}

    def _note(self, index: int, reason: str) -> None:
        if index not in self.bad:
            self.bad.add(index)
            log.warning("%s: image %d is replaced by the next: %s",
                        self.steps.images.source, index, reason)  # fmt: skip


class _Steps:
    """What runs in a worker."""

    def __init__(
        self,
        images: Images,
        transform: Callable,
        mixup: Mixup | None,
        channels: int,
        seed: tuple[int, int],
    ) -> None:
        self.images, self.transform, self.mixup = images, transform, mixup
        self.mode = MODES[channels]
        self.seed, self.rank = seed

    def __call__(self, step: Step, inputs: NDArray[np.float32]) -> _Rest:
        """Fill `inputs` with what a step shows."""
        bad: dict[int, str] = {}
        samples = [self._sample(step.epoch, int(index), bad) for index in step.index]
        views, labels, shown = zip(*samples, strict=True)
        into = torch.from_numpy(inputs)
        mixed, targets = torch.stack(views, out=into), torch.tensor(labels)
        if self.mixup:
            with seeded(self.seed, step.epoch, step.number, self.rank, _MIXUP_STREAM):
                mixed, targets = self.mixup(into, targets)
        if mixed is not into:
            into.copy_(mixed)
        return targets.numpy(), np.array(shown), bad

    def _sample(self, epoch: int, index: int, bad: dict[int, str]) -> tuple[Tensor, int, int]:
        """(view, label, index) of a sample, or of the next one that can be read."""
        for shown in ((index + more) % len(self.images) for more in range(TRIES)):
            try:
                image = self.images.view(shown, self.mode)
                with seeded(self.seed, epoch, index):
                    return self.transform(image), int(self.images.labels[shown]), shown
            except SkipImage as error:
                bad[shown] = str(error)
        raise DataError(f"{self.images.source}: {TRIES} images from {index} on cannot be read")


@contextlib.contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Inside, the random generators that transforms draw from are functions of `key`."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    number = int(np.random.SeedSequence(key).generate_state(1)[0])
    random.seed(number)
    np.random.seed(number)  # noqa: NPY002 - timm draws from it
    torch.default_generator.manual_seed(number)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        torch.set_rng_state(before[2])
