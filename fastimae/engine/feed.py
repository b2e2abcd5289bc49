"""How an epoch's steps get their batches: from a loader, one by one, or made by the device."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from fastimae.engine.draws import seed_draws
from fastimae.engine.resident_step import STEPS_PER_GRAPH, ResidentStep
from fastimae.engine.step import GraphedStep

if TYPE_CHECKING:
    from fastimae.engine.trainer import Trainer
    from fastimae.loaders.resident import ResidentEpoch


class LoaderFeed:
    """Takes a trainer's steps on batches that its loader yields; the host leads each of them."""

    longest = 1
    """Steps that are taken at once, at most."""

    def __init__(self, trainer: Trainer, batches: Iterator[Any]) -> None:
        self.trainer, self.batches = trainer, batches

    def take(self, rates: Sequence[float]) -> int:
        """Take a step for each learning rate; return how many images of this process they used."""
        images = 0
        for update, rate in enumerate(rates, self.trainer.update):
            for micro in range(self.trainer.plan.accum_iter):
                images += self._micro_step(update, micro, rate)
        return images

    def _micro_step(self, update: int, micro: int, rate: float) -> int:
        trainer = self.trainer
        batch = next(self.batches)
        seed_step(trainer, update, micro)
        parts = trainer.step.advance(batch, rate, last=micro == trainer.plan.accum_iter - 1)
        trainer.meter.add(parts, trainer.epoch, update, batch.index)
        return len(batch)


class ResidentFeed:
    """Takes a trainer's steps on batches that the device makes: the host only starts them."""

    longest = STEPS_PER_GRAPH

    def __init__(self, trainer: Trainer, step: ResidentStep, resident: ResidentEpoch) -> None:
        self.trainer, self.step, self.resident = trainer, step, resident
        self.accum_iter = trainer.plan.accum_iter
        resident.begin(trainer.epoch, trainer.update * self.accum_iter)

    def take(self, rates: Sequence[float]) -> int:
        """Take a step for each learning rate; return how many images of this process they used."""
        trainer, first = self.trainer, self.trainer.update * self.accum_iter
        values = self.step.take(rates)
        self.resident.advance(len(values))
        # As after single steps, if anything else draws.
        seed_step(trainer, trainer.update + len(rates) - 1, self.accum_iter - 1)
        trainer.meter.add_steps(
            self.step.names, values, trainer.epoch, trainer.update, self.accum_iter,
            lambda row: self._samples(first + row),
        )  # fmt: skip
        return len(values) * self.step.batch_size

    def _samples(self, number: int) -> Tensor:
        """Return the samples of a batch of this epoch, int64 [B], by making it again."""
        self.resident.begin(self.trainer.epoch, number)
        return self.resident.batch().index


Feed = LoaderFeed | ResidentFeed


@contextlib.contextmanager
def open_feed(trainer: Trainer) -> Iterator[Feed]:
    """Open the feed of the rest of a trainer's epoch, and record its step if that is still to do.

    The device makes the batches if it can, the loader has them there, and the step is recorded.
    """
    step, loader = trainer.step, trainer.loader
    # Asked for only where it is used: a loader that has it puts the epoch's plan on the device.
    if isinstance(step, ResidentStep) and (resident := getattr(loader, "resident", None)):
        longest = min(trainer.plan.log_steps, trainer.updates_per_epoch)
        if step.prepare_whole(resident, trainer.epoch, longest):
            yield ResidentFeed(trainer, step, resident)
            return
    if isinstance(step, GraphedStep) and not step.prepared:
        step.prepare(loader.example())  # before the loader's threads use CUDA
    with contextlib.closing(iter(loader)) as batches:
        on_cores = trainer.cores.batches(batches)
        yield LoaderFeed(trainer, trainer.epoch_clock.timed(trainer.window.timed(on_cores)))


def seed_step(trainer: Trainer, update: int, micro: int) -> None:
    """Seed torch's generators for a batch of a step."""
    key = trainer.epoch, update, micro, trainer.world.rank
    seed_draws(trainer.world.device, trainer.plan.seed, *key)
