"""The batch of a training with labels, and the position of a loader of them in an epoch.

B = batch, C, H, W = channels, height, width, K = classes.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
from collections.abc import Generator, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastimae.engine.distributed import World
from fastimae.loaders.batch import describe_images
from fastimae.loaders.nested import mapped
from fastimae.loaders.order.epoch_steps import EpochSteps
from fastimae.settings import ConfigError, StepSize


@dataclasses.dataclass(kw_only=True, repr=False)
class LabelledBatch:
    """The inputs and targets of one step of one rank."""

    inputs: Tensor
    """float [B, ...]: images [B, C, H, W], or features."""
    targets: Any
    """What the objective compares with. Classification: int64 [B], or float [B, K] where labels are
    mixed. Other tasks: a tensor, or lists and dicts of tensors, such as a dict for each image."""
    index: Tensor
    """int64 [B], position in the data set, after broken images have been replaced."""
    key: Tensor | None = None
    """int64 [B], random key of (seed, epoch, sample), for dropped paths; None for features."""

    def to(self, device: torch.device | str) -> LabelledBatch:
        """Copy the batch to `device`, without waiting if the memory is pinned."""
        return mapped(self, lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> LabelledBatch:
        """Copy the batch to page-locked memory."""
        return mapped(self, Tensor.pin_memory)

    def __len__(self) -> int:
        return len(self.index)

    def __repr__(self) -> str:
        return f"LabelledBatch({describe_images(self.inputs)})"


class StepSamples(NamedTuple):
    """The samples of this rank in a step."""

    epoch: int
    number: int
    index: NDArray[np.int64]
    """int64 [B]"""


def check_step(images: int, batch_size: int, world: World, accum_iter: int) -> None:
    """Raise ConfigError if an optimizer step needs more images than there are."""
    if images < batch_size * world.size * accum_iter:
        raise ConfigError(
            f"--batch_size {batch_size} on {world.size} ranks"
            + (f" with --accum_iter {accum_iter}" if accum_iter > 1 else "")
            + f" does not fit {images} images: make it smaller"
        )


class EpochLoader(abc.ABC):
    """Batches in an order that is a function of (seed, epoch), resumable after any batch.

    Ranks share the order, step by step; samples that do not fill an optimizer step of all ranks are
    left out. Has the methods that `Trainer` needs; a subclass implements `_decode_steps`.
    """

    def __init__(
        self,
        samples: int,
        *,
        batch_size: int,
        world: World,
        seed: int,
        accum_iter: int = StepSize.accum_iter,
        data: int,
    ) -> None:
        """Start before epoch 0. samples: how many an epoch has. batch_size: of one rank.

        data: `digest_of` the samples. Raises ConfigError if a step needs more samples than that.
        """
        check_step(samples, batch_size, world, accum_iter)
        self.batch_size, self.world, self.seed = batch_size, world, seed
        self.epoch_steps = EpochSteps(
            samples=samples,
            data=data,
            stride=batch_size * world.size,
            accum_iter=accum_iter,
        )
        self.bad: set[int] = set()
        """Broken images so far, on this rank."""
        self._epoch, self._step = 0, 0

    @abc.abstractmethod
    def _decode_steps(self, steps: Iterable[StepSamples]) -> Generator[LabelledBatch, None, None]:
        """Yield the batch of each step, on the device."""

    def bad_of_all(self) -> int:
        """Return the number of broken images that any rank has found; all ranks have to call it.

        Several ranks may meet the same one, in different epochs.
        """
        found = torch.zeros(self.epoch_steps.samples, device=self.world.device)
        found[sorted(self.bad)] = 1
        return int(self.world.mean(found).count_nonzero())

    @property
    def epoch(self) -> int:
        """The epoch that `__iter__` draws from."""
        return self._epoch

    def __len__(self) -> int:
        return len(self.epoch_steps)

    def __iter__(self) -> Iterator[LabelledBatch]:
        """Yield the rest of the epoch."""
        order = np.random.default_rng((self.seed, self._epoch)).permutation(
            self.epoch_steps.samples
        )
        numbers = range(self._step, len(self))
        steps = (StepSamples(self._epoch, number, self._rows(order, number)) for number in numbers)
        with contextlib.closing(self._decode_steps(steps)) as batches:
            for number, batch in zip(numbers, batches, strict=True):
                self._step = number + 1
                yield batch

    def _rows(self, order: NDArray[np.int64], number: int) -> NDArray[np.int64]:
        first = number * self.epoch_steps.stride + self.world.rank * self.batch_size
        return order[first : first + self.batch_size]

    def set_epoch(self, epoch: int) -> None:
        """Move to the start of `epoch`."""
        self._epoch, self._step = epoch, 0

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the epoch (see `EpochSteps`) and the broken images."""
        return {**self.epoch_steps.state(self._epoch, self._step), "bad": sorted(self.bad)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume where `state` was taken, also with other batch sizes: see `EpochSteps.resume`.

        Raises DataError in the middle of an epoch of other data.
        """
        self._epoch, self._step = self.epoch_steps.resume(state, main=self.world.is_main)
        self.bad = set(state.get("bad", ()))

    def report(self) -> dict[str, Any]:
        """Return entries for the log line of the epoch."""
        return {}

    def close(self) -> None:  # noqa: B027 - most loaders have nothing to do
        """Release resources; by default none are held between iterations."""
