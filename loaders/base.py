"""What every loader yields and how every loader behaves."""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import weakref
from collections.abc import Generator, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastimae.loaders.errors import DataError
from fastimae.log import log

if TYPE_CHECKING:
    from fastimae.loaders.sampler import Sampler, Step


@dataclasses.dataclass(kw_only=True, repr=False)
class Batch:
    """One micro-batch of one rank.

    Everything random downstream (masks, mixing ratios) is drawn from `key` and `step_key`, so it
    depends on the sample and the step alone, never on the number of ranks or workers.
    """

    images: Tensor
    """uint8 [B, H, W, C], cropped and flipped."""
    labels: Tensor
    """int64 [B]; -1 where the data has no labels."""
    index: Tensor
    """int64 [B], position in the dataset of the sample really shown."""
    key: Tensor
    """int64 [B], random key of (seed, epoch, sample, which of its copies)."""
    partner: Tensor
    """int64 [B], a permutation: row `partner[i]` is mixed into row i."""
    step_key: Tensor
    """int64 [1], random key of (seed, epoch, optimizer step), the same on every rank."""

    def to(self, device: torch.device | str) -> Batch:
        """The batch on `device`, copied without waiting where the memory is pinned."""
        moved = {
            field.name: getattr(self, field.name).to(device, non_blocking=True)
            for field in dataclasses.fields(self)
        }
        return Batch(**moved)

    def __len__(self) -> int:
        return len(self.index)

    def __repr__(self) -> str:
        return f"Batch({described(self.images)})"


def described(images: Tensor) -> str:
    """Images in a few words: how many, of which size and type, and where."""
    count, *size = images.shape
    of = f"{' x '.join(map(str, size))}, {str(images.dtype).removeprefix('torch.')}"
    return f"{count} images, {of}, on {images.device}"


@dataclasses.dataclass(kw_only=True)
class Shown:
    """What a back end made of one step."""

    images: Tensor
    """uint8 [B, H, W, C], in memory of its own: on the GPU if the back end decodes there, else
    pinned if it can cheaply do so."""
    index: NDArray[np.int64]
    """int64 [B], the samples really shown: those asked for, or good ones in place of bad ones."""
    bad: dict[int, str]
    """Index of each bad sample asked for -> why it cannot be shown."""


class Running:
    """The one iteration under way, if there is one.

    It is held weakly, so that dropping the iterator (a `break` in a for loop) ends it at once.
    """

    def __init__(self) -> None:
        self._batches: weakref.ref[Generator[Batch, None, None]] | None = None

    def start(self, batches: Generator[Batch, None, None]) -> Generator[Batch, None, None]:
        """Remember `batches`, and return it."""
        self._batches = weakref.ref(batches)
        return batches

    def stop(self) -> None:
        """Close the iteration, and with it what it started."""
        batches = self._batches() if self._batches else None
        if batches is not None:
            batches.close()


class Loader(abc.ABC):
    """Base of all loaders: iterates one epoch from where it stands, and can be resumed anywhere.

    A back end implements `_show`. Iterating after the last step of an epoch yields nothing until
    `set_epoch` is called; iterating after a `break` goes on with the next batch. A loader serves
    one iteration at a time: starting another, `set_epoch`, `load_state_dict` and `close` end the
    one under way. Batches are the caller's to keep. Use as a context manager, or call `close`.
    """

    def __init__(
        self, sampler: Sampler, shape: tuple[int, int, int], *, max_bad_samples: int, pin_mem: bool
    ) -> None:
        """shape: (height, width, channels) of an image."""
        self.sampler, self.shape = sampler, shape
        self.max_bad_samples = max_bad_samples
        self.pin = pin_mem and torch.cuda.is_available()
        self.bad: dict[int, str] = {}
        """Bad samples met so far on this rank: index -> reason."""
        self._epoch = 0
        self._step = 0
        self._running = Running()
        self._closed = False

    @abc.abstractmethod
    def _show(self, steps: Iterable[Step]) -> Iterator[Shown]:
        """Yield what each of `steps` shows, in order.

        A generator: when it is closed, everything it started must have stopped. It may read
        ahead in `steps`.
        """

    def sample_name(self, index: int) -> str:
        """How messages call sample `index`."""
        return f"sample {index}"

    @property
    def epoch(self) -> int:
        """The epoch that `__iter__` draws from."""
        return self._epoch

    def __len__(self) -> int:
        """Micro steps in an epoch, the same on every rank."""
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        """The rest of the epoch. Raises `DataError` if too many samples are bad."""
        if self._closed:
            raise ValueError("this loader is closed")
        self._running.stop()
        return self._running.start(self._batches())

    def example(self) -> Batch:
        """The epoch's first batch, but that its images are noise: nothing is read or started."""
        step = self.sampler.step(self._epoch, 0)
        images = torch.randint(
            256, (len(step.index), *self.shape), dtype=torch.uint8, generator=torch.Generator()
        )
        return self._batch(step, Shown(images=images, index=step.index, bad={}))

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of `epoch`."""
        self._running.stop()
        self._epoch, self._step = epoch, 0

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands: plain numbers and strings, safe to load with weights_only.

        "step" counts the micro steps already yielded, "stride" is the samples drawn for one
        micro step by all ranks; "finished" is whether that was the epoch. "samples" and "data"
        tell the data from others.
        """
        return {**self.sampler.epoch_steps.state(self._epoch, self._step), "bad": dict(self.bad)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where `state` was taken, also with other batches: see `EpochSteps.resume`.

        Raises `DataError` in the middle of an epoch of other data.
        """
        self._running.stop()
        self._epoch, self._step = self.sampler.epoch_steps.resume(
            state, main=self.sampler.rank == 0
        )
        self.bad = dict(state["bad"])

    def report(self) -> dict[str, int | float]:
        """What a log line should say of the epoch: bad samples so far, and the realised
        same_class_ratio where one was asked for."""
        line: dict[str, int | float] = {"bad_samples": len(self.bad)}
        if self.sampler.same_class_ratio is not None:
            line["same_class_ratio"] = round(self.sampler.plan(self._epoch).same_class_ratio, 4)
        return line

    def close(self) -> None:
        """Stop workers and release files. May be called twice."""
        self._running.stop()
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _batches(self) -> Generator[Batch, None, None]:
        numbers = range(self._step, len(self))
        if not numbers:
            return
        steps = (self.sampler.step(self._epoch, number) for number in numbers)
        with contextlib.closing(self._show(steps)) as stream:
            for number, shown in zip(numbers, stream, strict=True):
                self._note_bad(shown)
                self._step = number + 1
                yield self._batch(self.sampler.step(self._epoch, number), shown)

    def _batch(self, step: Step, shown: Shown) -> Batch:
        batch = Batch(
            images=shown.images,
            labels=torch.from_numpy(self.sampler.labels[shown.index]),
            index=torch.from_numpy(shown.index.copy()),
            key=torch.from_numpy(step.key),
            partner=torch.from_numpy(step.partner.copy()),
            step_key=torch.from_numpy(step.step_key),
        )
        if self.pin:
            for field in dataclasses.fields(batch):
                tensor = getattr(batch, field.name)
                setattr(batch, field.name, tensor if tensor.is_cuda else tensor.pin_memory())
        return batch

    def _note_bad(self, shown: Shown) -> None:
        for index, reason in shown.bad.items():
            if index not in self.bad:
                self.bad[index] = reason
                log.warning(
                    "%s is replaced by the next of its batch: %s", self.sample_name(index), reason
                )
        if len(self.bad) > self.max_bad_samples:
            limit = f"--max_bad_samples is {self.max_bad_samples}"
            raise DataError(f"{len(self.bad)} bad samples, {limit}: {self._listed(self.bad)}")
        if set(shown.index.tolist()) <= shown.bad.keys():
            count, listed = len(shown.bad), self._listed(shown.bad)
            raise DataError(f"all {count} samples of a batch are bad: {listed}")

    def _listed(self, bad: dict[int, str]) -> str:
        return "; ".join(f"{self.sample_name(index)} ({reason})" for index, reason in bad.items())
