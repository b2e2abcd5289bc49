"""Augmented training batches: timm's transforms, Mixup and CutMix, seeded by sample and step.

B = batch, C = channels, H, W = height and width, K = classes.
"""

from __future__ import annotations

import contextlib
import logging
import random
from collections.abc import Callable, Generator, Iterable, Iterator

import numpy as np
import torch
from timm.data import Mixup
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fastimae.engine.distributed import World
from fastimae.evaluate.classify.classification import ClassBatch, EpochLoader, Step
from fastimae.evaluate.images import Images
from fastimae.loaders.errors import DataError
from fastimae.loaders.imagefolder import start_method
from fastimae.loaders.limits import for_data_loader

log = logging.getLogger("fastimae")

TRIES = 10
_MIXUP_STREAM = 1 << 40
"""Tells a step's seed from a sample's."""


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
        channels: int,
        batch_size: int,
        num_workers: int,
        pin_mem: bool,
        world: World,
        seed: int,
        accum_iter: int = 1,
    ) -> None:
        """transform: PIL image -> float [C, H, W]. mixup: changes a batch and its labels."""
        super().__init__(
            images.labels, batch_size=batch_size, world=world, seed=seed, accum_iter=accum_iter,
            read=images.read,
        )  # fmt: skip
        self.steps = _Steps(images, transform, mixup, channels, (seed, world.rank))
        self.num_workers = num_workers
        self.pin = pin_mem and world.device.type == "cuda"

    def _show(self, steps: Iterable[Step]) -> Generator[ClassBatch, None, None]:
        batches = iter(
            DataLoader(
                self.steps,
                batch_sampler=steps,
                collate_fn=_unchanged,
                num_workers=self.num_workers,
                multiprocessing_context=start_method() if self.num_workers else None,
                worker_init_fn=for_data_loader(),
                pin_memory=self.pin,
                # One of our own: drawing from the default one would disturb the training run.
                generator=torch.Generator(),
            )
        )
        try:
            for batch, bad in batches:
                for index, reason in bad.items():
                    self._note(index, reason)
                yield batch.to(self.world.device)
        finally:
            # By name, not by dropping it: the traceback of an error would keep it alive.
            if self.num_workers:
                batches._shutdown_workers()

    def report(self) -> dict[str, int]:
        """The number of broken images so far."""
        return {"bad_samples": len(self.bad)}

    def _note(self, index: int, reason: str) -> None:
        if index not in self.bad:
            self.bad.add(index)
            log.warning("%s: image %d is replaced by the next: %s",
                        self.steps.images.source, index, reason)  # fmt: skip


class _Steps(Dataset[tuple[ClassBatch, dict[int, str]]]):
    """What runs in a worker: one item is one step."""

    def __init__(
        self,
        images: Images,
        transform: Callable,
        mixup: Mixup | None,
        channels: int,
        seed: tuple[int, int],
    ) -> None:
        self.images, self.transform, self.mixup = images, transform, mixup
        self.mode = "RGB" if channels == 3 else "L"
        self.seed, self.rank = seed

    def __getitems__(self, step: Step) -> tuple[ClassBatch, dict[int, str]]:
        """The batch of a step, which torch takes for a list of indices, and what was broken."""
        bad: dict[int, str] = {}
        samples = [self._sample(step.epoch, int(index), bad) for index in step.index]
        views, labels, shown = zip(*samples, strict=True)
        inputs, targets = torch.stack(views), torch.tensor(labels)
        if self.mixup:
            with seeded(self.seed, step.epoch, step.number, self.rank, _MIXUP_STREAM):
                inputs, targets = self.mixup(inputs, targets)
        return ClassBatch(inputs=inputs, targets=targets, index=torch.tensor(shown)), bad

    def _sample(self, epoch: int, index: int, bad: dict[int, str]) -> tuple[Tensor, int, int]:
        """(view, label, index) of a sample, or of the next one that can be read."""
        for shown in ((index + more) % len(self.images) for more in range(TRIES)):
            try:
                image, label = self.images[shown]
                image.load()
            except Exception as error:  # Pillow raises a dozen types
                bad[shown] = " ".join(f"{type(error).__name__}: {error}".split())
                continue
            with seeded(self.seed, epoch, index):
                return self.transform(image.convert(self.mode)), label, shown
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


def _unchanged(result):
    return result
