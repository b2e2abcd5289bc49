"""The sampler: the samples, mixing partners and random keys of each rank at each step.

Everything is a function of (seed, epoch, sample or step), so any step of any rank can be computed
on its own: runs resume anywhere, and do not depend on the number of ranks or workers.

B = rows of a rank's batch, N = samples of the data set.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastimae.loaders.errors import DataError
from fastimae.loaders.order.epoch_steps import EpochSteps, Read, digest_of
from fastimae.loaders.order.partners import cycle, reciprocal, same_class_order
from fastimae.loaders.order.philox import KeyStream, derive_keys
from fastimae.loaders.settings import LoaderSettings
from fastimae.log import log

if TYPE_CHECKING:
    from fastimae.loaders.base import Loader

RATIO_TOLERANCE = 0.02
"""Largest difference from --same_class_ratio without a warning."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EpochPlan:
    """The order of one epoch, for all ranks together."""

    order: NDArray[np.int64]
    """The samples in the order drawn, none twice. If pairs are drawn by class, an odd number of
    samples loses one."""
    same_class_ratio: float | None
    """Realised share of mixtures whose images share a label; None if labels are unknown."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """The samples of one rank in one micro step; for the fields see `Batch`."""

    index: NDArray[np.int64]
    """[B]"""
    key: NDArray[np.int64]
    """[B]"""
    partner: NDArray[np.int64]
    """[B]"""
    step_key: NDArray[np.int64]
    """[1]"""


class Sampler:
    """The plan of each epoch and of its steps; `len` is the number of micro steps.

    An epoch consists of full optimizer steps: the samples left over at its end are not used.

    With `repeated_aug` > 1 the order is cut into blocks of one mix group, and each block comes in
    that many successive copies with different random keys. Partners are from the same copy, so
    they are different images, and a batch contains all copies of its blocks.

    labels: int64 [N], -1 if unknown. settings: checked. read: see `digest_of`. Raises `DataError`
    for settings that do not fit the data, or each other.
    """

    def __init__(
        self,
        labels: NDArray[np.int64],
        settings: LoaderSettings,
        *,
        rank: int = 0,
        world_size: int = 1,
        read: Read | None = None,
    ) -> None:
        self.labels = np.asarray(labels, dtype=np.int64)
        self._digest = digest_of(self.labels, read)
        self.batch_size, self.accum_iter = settings.batch_size, settings.accum_iter
        self.rank, self.world_size, self.seed = rank, world_size, settings.seed
        self.repeated_aug = settings.repeated_aug
        self.same_class_ratio = settings.same_class_ratio
        self.in_pairs = settings.reciprocal_pairs or settings.same_class_ratio is not None
        self.group = settings.mix_group or max(1, self.batch_size // self.repeated_aug)
        self._check_sizes()
        self._check_pairs()
        batch_size, repeated_aug = self.batch_size, self.repeated_aug
        # For each row of a batch: its position in the batch's part of the order, and its copy.
        row, block = np.arange(batch_size), self.group * repeated_aug
        self._position = row // block * self.group + row % self.group
        self._copy = row // self.group % repeated_aug
        self._partner = (
            reciprocal(batch_size)
            if self.in_pairs
            else cycle(batch_size, self.group, copies=repeated_aug)
        )
        self._plan: tuple[int, EpochPlan] | None = None

    def __len__(self) -> int:
        return len(self.epoch_steps)

    @property
    def epoch_steps(self) -> EpochSteps:
        """The division of an epoch into micro steps."""
        return EpochSteps(
            samples=len(self.labels), data=self._digest,
            stride=self.stride, accum_iter=self.accum_iter,
        )  # fmt: skip

    @property
    def stride(self) -> int:
        """Samples that all ranks together draw for one micro step, not counting copies."""
        return self.batch_size * self.world_size // self.repeated_aug

    def plan(self, epoch: int) -> EpochPlan:
        """Return the plan of `epoch`; the latest one is cached."""
        if self._plan is None or self._plan[0] != epoch:
            self._plan = epoch, self._draw_plan(epoch)
        return self._plan[1]

    def step(self, epoch: int, number: int) -> BatchPlan:
        """Return micro step `number` of this rank, in [0, len)."""
        start = (number * self.world_size + self.rank) * self.batch_size // self.repeated_aug
        index = self.plan(epoch).order[start + self._position]
        return BatchPlan(
            index=index,
            key=derive_keys(self.seed, index, epoch, KeyStream.SAMPLE, self._copy),
            partner=self._partner,
            step_key=derive_keys(self.seed, [number // self.accum_iter], epoch, KeyStream.STEP),
        )

    def fixed_samples(self, count: int) -> BatchPlan:
        """Return a plan of `count` samples, or all, at equal distances in the data set.

        It depends on the data set and the seed alone: not on epoch, rank or batch size. Row i is
        paired with row i + B / 2.
        """
        samples = len(self.labels)
        index = np.arange(count) * samples // count if count < samples else np.arange(samples)
        return BatchPlan(
            index=index,
            key=derive_keys(self.seed, index, 0, KeyStream.SAMPLE),
            partner=np.roll(np.arange(len(index)), -(len(index) // 2)),
            step_key=derive_keys(self.seed, [0], 0, KeyStream.STEP),
        )

    def _check_sizes(self) -> None:
        copies = f"--repeated_aug {self.repeated_aug}"
        if self.batch_size % self.repeated_aug:
            raise DataError(f"--batch_size {self.batch_size} is not a multiple of {copies}")
        if self.batch_size % (self.group * self.repeated_aug):
            raise DataError(
                f"--batch_size {self.batch_size} is not a multiple of --mix_group {self.group}"
                + (f" x {copies}" if self.repeated_aug > 1 else "")
                + " (--mix_group 0 mixes across the full batch)"
            )
        if len(self):
            return
        raise DataError(
            f"{len(self.labels)} samples are fewer than one optimizer step of "
            f"{self.stride * self.accum_iter} (--batch_size {self.batch_size} x {self.world_size} "
            + ("rank" if self.world_size == 1 else "ranks")
            + (f" x --accum_iter {self.accum_iter}" if self.accum_iter > 1 else "")
            + (f" / {copies}" if self.repeated_aug > 1 else "")
            + "): make --batch_size "
            + ("or --accum_iter " if self.accum_iter > 1 else "")
            + "smaller"
        )

    def _check_pairs(self) -> None:
        ratio = self.same_class_ratio
        if self.in_pairs and self.group % 2:
            flag = "--reciprocal_pairs" if ratio is None else "--same_class_ratio"
            raise DataError(
                f"{flag} needs an even --mix_group (or an even --batch_size / --repeated_aug "
                f"with --mix_group 0), not {self.group}"
            )
        if ratio is None:
            return
        if (self.labels < 0).any():
            raise DataError(
                "--same_class_ratio needs a label for every sample, and some have none: "
                "fastimae-eval cluster makes some, for --pseudo_labels"
            )

    def _draw_plan(self, epoch: int) -> EpochPlan:
        order, reason = self._shuffled(epoch, KeyStream.ORDER), ""
        if self.same_class_ratio is not None:
            reshuffled = self._shuffled(epoch, KeyStream.PAIR)
            count = len(order) // 2 * 2
            order, reason = same_class_order(
                self.labels, order, reshuffled, self.same_class_ratio, count
            )
        plan = EpochPlan(order=order, same_class_ratio=self._realised_ratio(order))
        if self.same_class_ratio is not None and self.rank == 0:
            self._report(epoch, plan, reason)
        return plan

    def _shuffled(self, epoch: int, stream: KeyStream) -> NDArray[np.int64]:
        keys = derive_keys(self.seed, np.arange(len(self.labels)), epoch, stream)
        return np.argsort(keys, kind="stable")

    def _realised_ratio(self, order: NDArray[np.int64]) -> float | None:
        labels = self.labels[order[: len(order) // self.group * self.group]]
        if (labels < 0).any():
            return None
        labels = labels.reshape(-1, self.group)
        copies = self._partner[: self.group * self.repeated_aug].reshape(-1, self.group)
        return float(np.mean([np.mean(labels == labels[:, row % self.group]) for row in copies]))

    def _report(self, epoch: int, plan: EpochPlan, reason: str) -> None:
        asked, realised = self.same_class_ratio, plan.same_class_ratio
        log.info("epoch %d: %.3f of the mixtures share a class", epoch, realised)
        if abs(realised - asked) > RATIO_TOLERANCE:
            log.warning(
                "epoch %d: --same_class_ratio %g cannot be met (realised %.3f): %s",
                epoch, asked, realised, reason or "the data set is too small",
            )  # fmt: skip


class Endless:
    """A sampler whose single epoch strings together the steps of all epochs.

    For measurements: at the end of an epoch a loader stops and starts over, which would make a
    small data set slower than a large one.
    """

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler

    def __getattr__(self, name: str) -> Any:
        """Delegate everything else to the sampler."""
        return getattr(self.sampler, name)

    def __len__(self) -> int:
        return 2**62

    def step(self, epoch: int, number: int) -> BatchPlan:
        """Return micro step `number` of the endless epoch."""
        return self.sampler.step(*divmod(number, len(self.sampler)))


def endless(loader: Loader) -> Loader:
    """Make a loader continue without end; return it."""
    loader.sampler = Endless(loader.sampler)
    return loader
