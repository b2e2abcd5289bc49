"""Which samples a rank sees at each step, and with which random keys.

Everything is a function of (seed, epoch, sample or step), so any step of any rank can be asked
for on its own: runs resume anywhere, and do not depend on the number of ranks or workers.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastimae.loaders.epoch_steps import EpochSteps, Read, digest_of
from fastimae.loaders.errors import DataError
from fastimae.loaders.pairs import cycle, reciprocal, same_class_order
from fastimae.loaders.philox import (
    ORDER_STREAM,
    PAIR_STREAM,
    SAMPLE_STREAM,
    STEP_STREAM,
    derive_keys,
)
from fastimae.loaders.settings import LoaderSettings
from fastimae.log import log

if TYPE_CHECKING:
    from fastimae.loaders.base import Loader

RATIO_TOLERANCE = 0.02


@dataclasses.dataclass(frozen=True, kw_only=True)
class EpochPlan:
    """One epoch, all ranks together."""

    order: NDArray[np.int64]
    """The samples in the order drawn, none twice. One of an odd number is missing where pairs
    are drawn by class."""
    same_class_ratio: float | None
    """Realised share of mixtures of two images with one label; None where labels are unknown."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """What one rank shows in one micro step; the fields are those of `Batch`."""

    index: NDArray[np.int64]
    key: NDArray[np.int64]
    partner: NDArray[np.int64]
    step_key: NDArray[np.int64]


class Sampler:
    """Draws the plan of an epoch and its steps; `len` is the number of micro steps.

    An epoch has whole optimizer steps only: other samples are left out of each epoch's end.

    With `repeated_aug` > 1 the order is cut into blocks of one mix group, and each block is shown
    so many times in a row, with other random keys each time. Partners are of the same showing, so
    they are different images, and a batch holds all the showings of its blocks.

    labels: int64 [N], -1 where unknown. settings: checked. read: see `digest_of`. Raises
    `DataError` for settings that do not fit the data, or each other.
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
        # Of the rows of a batch: where in its part of the order they are from, and which copy.
        row, block = np.arange(batch_size), self.group * repeated_aug
        self._position = row // block * self.group + row % self.group
        self._copy = row // self.group % repeated_aug
        self._partner = (
            reciprocal(batch_size)
            if self.in_pairs
            else cycle(batch_size, self.group, showings=repeated_aug)
        )
        self._plan: tuple[int, EpochPlan] | None = None

    def __len__(self) -> int:
        return len(self.epoch_steps)

    @property
    def epoch_steps(self) -> EpochSteps:
        """How an epoch is cut into micro steps."""
        return EpochSteps(
            samples=len(self.labels), data=self._digest,
            stride=self.stride, accum_iter=self.accum_iter,
        )  # fmt: skip

    @property
    def stride(self) -> int:
        """Samples that all ranks together draw for one micro step, each shown in every copy."""
        return self.batch_size * self.world_size // self.repeated_aug

    def plan(self, epoch: int) -> EpochPlan:
        """The plan of `epoch`; the last one asked for is kept."""
        if self._plan is None or self._plan[0] != epoch:
            self._plan = epoch, self._draw_plan(epoch)
        return self._plan[1]

    def step(self, epoch: int, number: int) -> Step:
        """Micro step `number` of this rank, in [0, len)."""
        start = (number * self.world_size + self.rank) * self.batch_size // self.repeated_aug
        index = self.plan(epoch).order[start + self._position]
        return Step(
            index=index,
            key=derive_keys(self.seed, index, epoch, SAMPLE_STREAM, self._copy),
            partner=self._partner,
            step_key=derive_keys(self.seed, [number // self.accum_iter], epoch, STEP_STREAM),
        )

    def _check_sizes(self) -> None:
        copies = f"--repeated_aug {self.repeated_aug}"
        if self.batch_size % self.repeated_aug:
            raise DataError(f"--batch_size {self.batch_size} is not a multiple of {copies}")
        if self.batch_size % (self.group * self.repeated_aug):
            raise DataError(
                f"--batch_size {self.batch_size} is not a multiple of --mix_group {self.group}"
                + (f" x {copies}" if self.repeated_aug > 1 else "")
                + " (--mix_group 0 mixes across the whole batch)"
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
            raise DataError("--same_class_ratio needs labels, and this data has none or not all")

    def _draw_plan(self, epoch: int) -> EpochPlan:
        order, reason = self._shuffled(epoch, ORDER_STREAM), ""
        if self.same_class_ratio is not None:
            reshuffled = self._shuffled(epoch, PAIR_STREAM)
            count = len(order) // 2 * 2
            order, reason = same_class_order(
                self.labels, order, reshuffled, self.same_class_ratio, count
            )
        plan = EpochPlan(order=order, same_class_ratio=self._realised_ratio(order))
        if self.same_class_ratio is not None and self.rank == 0:
            self._report(epoch, plan, reason)
        return plan

    def _shuffled(self, epoch: int, stream: int) -> NDArray[np.int64]:
        keys = derive_keys(self.seed, np.arange(len(self.labels)), epoch, stream)
        return np.argsort(keys, kind="stable")

    def _realised_ratio(self, order: NDArray[np.int64]) -> float | None:
        labels = self.labels[order[: len(order) // self.group * self.group]]
        if (labels < 0).any():
            return None
        labels = labels.reshape(-1, self.group)
        showings = self._partner[: self.group * self.repeated_aug].reshape(-1, self.group)
        return float(np.mean([np.mean(labels == labels[:, row % self.group]) for row in showings]))

    def _report(self, epoch: int, plan: EpochPlan, reason: str) -> None:
        asked, realised = self.same_class_ratio, plan.same_class_ratio
        log.info("epoch %d: %.3f of the mixtures share a class", epoch, realised)
        if abs(realised - asked) > RATIO_TOLERANCE:
            log.warning(
                "epoch %d: --same_class_ratio %g cannot be met (realised %.3f): %s",
                epoch, asked, realised, reason or "the data set is too small",
            )  # fmt: skip


class Endless:
    """Takes the place of a loader's sampler: its one epoch has the steps of all, one after another.

    So a small data set can be loaded for any time as a large one would be: at the end of an epoch
    a loader stops, and starts anew.
    """

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler

    def __getattr__(self, name: str) -> Any:
        """All else that a loader asks of its sampler."""
        return getattr(self.sampler, name)

    def __len__(self) -> int:
        return 2**62

    def step(self, epoch: int, number: int) -> Step:
        """Step `number` of the one epoch there is."""
        return self.sampler.step(*divmod(number, len(self.sampler)))


def endless(loader: Loader) -> Loader:
    """The loader, made to go on without end."""
    loader.sampler = Endless(loader.sampler)
    return loader
