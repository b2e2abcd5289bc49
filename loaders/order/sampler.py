"""The sampler: the samples, mixing partners and random keys of each rank at each step.

Everything is a function of (seed, epoch, sample or step), so any step of any rank can be computed
on its own: runs resume anywhere, and do not depend on the number of ranks or workers.

B = rows of a rank's batch, N = samples of the data set, S = micro steps.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastimae.loaders.order.choice import chosen_images
from fastimae.loaders.order.epoch_steps import EpochSteps, Read, digest_of
from fastimae.loaders.order.partners import cycle, reciprocal, same_class_order
from fastimae.loaders.order.passes import apart, shuffles, without_self
from fastimae.loaders.order.philox import KeyStream, derive_keys
from fastimae.loaders.order.sampler_checks import check_pairs, check_sizes
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
    """The samples in the order drawn: whole passes, and a part of one. If pairs are drawn by class,
    an odd number of samples loses one in each pass."""
    a_pass: int
    """Draws of a pass: none twice."""
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

    An epoch draws each sample once, or `epoch_samples` samples, see passes.py. It consists of full
    optimizer steps: the samples left over at its end are not used.

    With `repeated_aug` > 1 the order is cut into blocks of one mix group, and each block comes in
    that many successive copies with different random keys. Partners are from the same copy, so
    they are different images, and a batch contains all copies of its blocks.

    `chosen`, int64 [n] in ascending order, are the samples that are used: `images`, `images_from`.

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
        self.chosen = chosen_images(self.labels, settings, settings.seed)
        self.drawn = settings.epoch_samples or len(self.chosen)
        self._digest = digest_of(self.labels, read, self.chosen)
        self.batch_size, self.accum_iter = settings.batch_size, settings.accum_iter
        self.rank, self.world_size, self.seed = rank, world_size, settings.seed
        self.repeated_aug = settings.repeated_aug
        self.same_class_ratio = settings.same_class_ratio
        self.in_pairs = settings.reciprocal_pairs or settings.same_class_ratio is not None
        self.group = settings.mix_group or max(1, self.batch_size // self.repeated_aug)
        check_sizes(self)
        check_pairs(self)
        batch_size, repeated_aug = self.batch_size, self.repeated_aug
        # For each row of a batch: its position in the batch's part of the order, and its copy.
        row, block = np.arange(batch_size), self.group * repeated_aug
        self._position = row // block * self.group + row % self.group
        self.copy = row // self.group % repeated_aug
        self.partner = (
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
            samples=self.drawn, data=self._digest,
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
        steps = self.steps(epoch, np.array([number]))
        return BatchPlan(**{name: rows[0] for name, rows in vars(steps).items()})

    def steps(self, epoch: int, numbers: NDArray[np.int64]) -> BatchPlan:
        """Return micro steps `numbers`, int64 [S], of this rank: all fields have [S, ...]."""
        position, plan = self.positions(numbers), self.plan(epoch)
        index, copy = plan.order[position], self.copy
        partner = np.broadcast_to(self.partner, index.shape)
        if plan.a_pass < self.drawn:
            copy = position // plan.a_pass * self.repeated_aug + copy
            first = np.arange(len(numbers))[:, None] * self.batch_size
            partner = without_self(index.ravel(), (partner + first).ravel(), self.group)
            partner = partner.reshape(index.shape) - first
        update = numbers[:, None] // self.accum_iter
        return BatchPlan(
            index=index,
            key=derive_keys(self.seed, index, epoch, KeyStream.SAMPLE, copy),
            partner=partner,
            step_key=derive_keys(self.seed, update, epoch, KeyStream.STEP),
        )

    def positions(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the positions in an epoch's order of this rank's rows in some steps, [S, B]."""
        start = (numbers * self.world_size + self.rank) * self.batch_size // self.repeated_aug
        return start[:, None] + self._position

    @property
    def has_free_order(self) -> bool:
        """Whether an epoch is one pass in the order of the samples' keys, whatever the labels."""
        return self.same_class_ratio is None and self.drawn <= len(self.chosen)

    def fixed_samples(self, count: int) -> BatchPlan:
        """Return a plan of `count` of the samples used, or all, at equal distances.

        It depends on the data set and the seed alone: not on epoch, rank or batch size. Row i is
        paired with row i + B / 2.
        """
        samples = len(self.chosen)
        index = self.chosen[np.arange(min(count, samples)) * samples // min(count, samples)]
        return BatchPlan(
            index=index,
            key=derive_keys(self.seed, index, 0, KeyStream.SAMPLE),
            partner=np.roll(np.arange(len(index)), -(len(index) // 2)),
            step_key=derive_keys(self.seed, [0], 0, KeyStream.STEP),
        )

    def _draw_plan(self, epoch: int) -> EpochPlan:
        ratio, few = self.same_class_ratio, len(self.chosen)
        a_pass = min(self.drawn, few) if ratio is None else min(self.drawn, few) // 2 * 2
        passes = -(-self.drawn // a_pass) if self.drawn > few else 1
        drawn, reason = self._shuffles(epoch, KeyStream.ORDER, passes), ""
        if ratio is None:
            order = apart(drawn)
        else:
            labels, again = self.labels[self.chosen], self._shuffles(epoch, KeyStream.PAIR, passes)
            pairs = (
                same_class_order(labels, *two, ratio, a_pass)
                for two in zip(drawn, again, strict=True)
            )
            orders, reasons = zip(*pairs, strict=True)
            order, reason = np.concatenate(orders), max(reasons)
        order = self.chosen[order[: self.drawn]]
        realised = self._realised_ratio(order)
        plan = EpochPlan(order=order, a_pass=a_pass, same_class_ratio=realised)
        if ratio is not None and self.rank == 0:
            self._report(epoch, plan, reason)
        return plan

    def _shuffles(self, epoch: int, stream: KeyStream, passes: int) -> NDArray[np.int64]:
        return shuffles(self.seed, self.chosen, epoch, stream, passes)

    def _realised_ratio(self, order: NDArray[np.int64]) -> float | None:
        labels = self.labels[order[: len(order) // self.group * self.group]]
        if (labels < 0).any():
            return None
        labels = labels.reshape(-1, self.group)
        copies = self.partner[: self.group * self.repeated_aug].reshape(-1, self.group)
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
