"""The contract of all loaders: how an epoch is iterated and resumed.

A loader joins two parts. The sampler plans: which samples each step uses, with which random keys.
The back end decodes: it turns each planned step into pixels, and implements one method for it,
`Loader._decode_steps`. All else, such as resuming and counting bad samples, is here.

Dimensions: B images in a batch, H height, W width, C channels.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
from collections.abc import Generator, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

from fastimae.loaders.batch import Batch
from fastimae.loaders.errors import DataError
from fastimae.loaders.iteration import CurrentIteration
from fastimae.loaders.workers.buffers import torch_dtype
from fastimae.log import log

if TYPE_CHECKING:
    from fastimae.loaders.order.sampler import BatchPlan, Sampler
    from fastimae.loaders.resident import ResidentEpoch


@dataclasses.dataclass(kw_only=True)
class DecodedStep:
    """The pixels that a back end made of one step."""

    images: Tensor
    """uint8 or uint16 [B, H, W, C], in memory that is not used again: on the GPU if the back end
    decodes there, else pinned if that is cheap."""
    index: NDArray[np.int64]
    """int64 [B], the samples decoded: the planned ones, or good ones in place of bad ones."""
    bad: dict[int, str]
    """Index of each bad sample of the plan -> why it cannot be decoded."""
    labels: NDArray[np.int64] | None = None
    """int64 [B], if only reading the samples tells their labels; None: they are the sampler's."""


class Loader(abc.ABC):
    """Base of all loaders: yields the rest of an epoch, and can be resumed after any batch.

    Iterating after a `break` continues with the next batch; iterating after the last step of an
    epoch yields nothing until `set_epoch` is called. A loader serves one iteration at a time:
    starting another, `set_epoch`, `load_state_dict` and `close` end the current one. Batches are
    the caller's to keep. Use as a context manager, or call `close`.
    """

    def __init__(
        self,
        sampler: Sampler,
        shape: tuple[int, int, int],
        *,
        max_bad_samples: int,
        pin_mem: bool,
        dtype: DTypeLike = np.uint8,
    ) -> None:
        """Start at epoch 0, before its first step.

        sampler: plans the steps. shape: (height, width, channels) of an image. max_bad_samples: the
        most that may be replaced. pin_mem: put batches in page-locked memory, if there is a GPU.
        dtype: of the images, uint8 or uint16.
        """
        self.sampler, self.shape, self.dtype = sampler, shape, np.dtype(dtype)
        self.max_bad_samples = max_bad_samples
        self.pin = pin_mem and torch.cuda.is_available()
        self.bad: dict[int, str] = {}
        """Bad samples met so far on this rank: index -> reason."""
        self._epoch = 0
        self._step = 0
        self._iteration = CurrentIteration()
        self._closed = False

    @abc.abstractmethod
    def _decode_steps(self, steps: Iterable[BatchPlan]) -> Iterator[DecodedStep]:
        """Yield the decoded images of each of `steps`, in order.

        A generator: when it is closed, everything it started must have stopped. It may read
        ahead in `steps`, which can also be iterated over again, from any thread.
        """

    def sample_name(self, index: int) -> str:
        """Return the name of sample `index` in messages."""
        return f"sample {index}"

    @property
    def resident(self) -> ResidentEpoch | None:
        """What makes the batches without the host, if the samples are on the device; else None."""
        return None

    @property
    def epoch(self) -> int:
        """The epoch that `__iter__` draws from."""
        return self._epoch

    def __len__(self) -> int:
        """Return the number of micro steps in an epoch, the same on every rank."""
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the rest of the epoch. Raises `DataError` if too many samples are bad."""
        if self._closed:
            raise ValueError("this loader is closed")
        self._iteration.stop()
        return self._iteration.start(self._batches())

    def example(self) -> Batch:
        """Return the epoch's first batch with noise for images; nothing is read or started."""
        plan = self.sampler.step(self._epoch, 0)
        shape, values = (len(plan.index), *self.shape), np.iinfo(self.dtype).max + 1
        images = torch.randint(values, shape, dtype=torch.int32, generator=torch.Generator())
        images = images.to(torch_dtype(self.dtype))
        return self._batch(plan, DecodedStep(images=images, index=plan.index, bad={}))

    def fixed_batch(self, count: int) -> Batch:
        """Return the same `count` samples of the data set (or all) each time, to compare pictures.

        They depend on neither the rank nor the batch size, and are decoded now; the epoch continues
        where it was. Samples that cannot be decoded are replaced, and not counted.
        """
        self._iteration.stop()
        plan = self.sampler.fixed_samples(count)
        size = self.sampler.batch_size  # back ends may take no more at once
        parts = [_rows_of(plan, slice(i, i + size)) for i in range(0, len(plan.index), size)]
        with contextlib.closing(self._decode_steps(parts)) as decoded_steps:
            decoded = list(decoded_steps)
        return self._batch(plan, _joined(decoded))

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of `epoch`."""
        self._iteration.stop()
        self._epoch, self._step = epoch, 0

    def set_image_size(self, size: tuple[int, int]) -> None:
        """Make images of another size, (height, width), from the next batch on.

        The epoch continues where it was. Windows are drawn as before: they are the same for all
        sizes of one shape (height / width).
        """
        self._iteration.stop()
        if size != self.shape[:2]:
            self._change_size(size)

    def _change_size(self, size: tuple[int, int]) -> None:
        """Remake what depends on the size of images. No iteration is going on."""
        self.shape = (*size, self.shape[2])

    def state_dict(self) -> dict[str, Any]:
        """Return the loader's position: plain numbers and strings, safe to load with weights_only.

        "step" counts the micro steps already yielded, and "finished" is whether they are the whole
        epoch. "stride" is the number of samples that all ranks draw for one micro step. "samples"
        and "data" identify the data. With --same_class_ratio, the one of this epoch is there too.
        """
        position = self.sampler.epoch_steps.state(self._epoch, self._step)
        return {**position, "bad": dict(self.bad), **self._realised()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume where `state` was taken, even with other batch sizes: see `EpochSteps.resume`.

        Raises `DataError` if the state is from the middle of an epoch of other data.
        """
        self._iteration.stop()
        self._epoch, self._step = self.sampler.epoch_steps.resume(
            state, main=self.sampler.rank == 0
        )
        self.bad = dict(state["bad"])

    def report(self) -> dict[str, int | float]:
        """Return what to log about the epoch: bad samples so far, and the realised same_class_ratio
        if one was asked for."""
        return {"bad_samples": len(self.bad), **self._realised()}

    def _realised(self) -> dict[str, float]:
        """Return the same_class_ratio of this epoch by its name, {} if none was asked for."""
        if self.sampler.same_class_ratio is None:
            return {}
        return {"same_class_ratio": round(self.sampler.plan(self._epoch).same_class_ratio, 4)}

    def close(self) -> None:
        """Stop workers and release files. May be called twice."""
        self._iteration.stop()
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _batches(self) -> Generator[Batch, None, None]:
        numbers = range(self._step, len(self))
        if not numbers:
            return
        plans = _StepPlans(self.sampler, self._epoch, numbers)
        with contextlib.closing(self._decode_steps(plans)) as decoded_steps:
            for number, plan, decoded in zip(numbers, plans, decoded_steps, strict=True):
                self._count_bad(decoded.index, decoded.bad)
                self._step = number + 1
                yield self._batch(plan, decoded)

    def _batch(self, plan: BatchPlan, decoded: DecodedStep) -> Batch:
        known = decoded.labels is None
        labels = self.sampler.labels[decoded.index] if known else decoded.labels
        batch = Batch(
            images=decoded.images,
            labels=torch.from_numpy(labels),
            index=torch.from_numpy(decoded.index.copy()),
            key=torch.from_numpy(plan.key),
            partner=torch.from_numpy(plan.partner.copy()),
            step_key=torch.from_numpy(plan.step_key),
        )
        if self.pin:
            for field in dataclasses.fields(batch):
                tensor = getattr(batch, field.name)
                setattr(batch, field.name, tensor if tensor.is_cuda else tensor.pin_memory())
        return batch

    def _count_bad(self, used: NDArray[np.int64], bad: dict[int, str]) -> None:
        """Log and count new bad samples. Raises `DataError` if there are too many, or a whole
        batch is bad. used: int64 [B], the samples of a batch; bad: those replaced."""
        for index, reason in bad.items():
            if index not in self.bad:
                self.bad[index] = reason
                log.warning(
                    "%s is replaced by the next of its batch: %s", self.sample_name(index), reason
                )
        if len(self.bad) > self.max_bad_samples:
            limit = f"--max_bad_samples is {self.max_bad_samples}"
            raise DataError(f"{len(self.bad)} bad samples, {limit}: {self._listed(self.bad)}")
        if set(used.tolist()) <= bad.keys():
            raise DataError(f"all {len(bad)} samples of a batch are bad: {self._listed(bad)}")

    def _listed(self, bad: dict[int, str]) -> str:
        return "; ".join(f"{self.sample_name(index)} ({reason})" for index, reason in bad.items())


def _rows_of(plan: BatchPlan, rows: slice) -> BatchPlan:
    """Return the plan of some rows, to decode them; their partners may be others."""
    return dataclasses.replace(plan, index=plan.index[rows], key=plan.key[rows])


def _joined(steps: list[DecodedStep]) -> DecodedStep:
    """Join the images, samples and labels of several steps."""
    known = [step.labels for step in steps if step.labels is not None]
    return DecodedStep(
        # Processes fill buffers of a full batch, so that there may be unused rows.
        images=torch.cat([step.images[: len(step.index)] for step in steps]),
        index=np.concatenate([step.index for step in steps]),
        bad={},
        labels=np.concatenate(known) if known else None,
    )


@dataclasses.dataclass(frozen=True)
class _StepPlans:
    """The plans of some steps of an epoch, drawn again by each iteration over them."""

    sampler: Sampler
    epoch: int
    numbers: range

    def __iter__(self) -> Iterator[BatchPlan]:
        return (self.sampler.step(self.epoch, number) for number in self.numbers)
