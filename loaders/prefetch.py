"""Prefetching to the GPU: the next batch is copied while the step before it runs."""

from __future__ import annotations

import contextlib
import dataclasses
from collections import deque
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from fastimae.loaders.base import Batch, Loader
from fastimae.loaders.iteration import CurrentIteration
from fastimae.loaders.nested import mapped, tensors_in
from fastimae.loaders.order.sampler import Sampler

if TYPE_CHECKING:
    from fastimae.loaders.resident import ResidentEpoch

Event = Any
Stream = Any


class DevicePrefetch:
    """A loader whose batches are on `device`: use it instead of `loader`, which it closes.

    On CUDA the next `depth` batches are copied on a separate stream while the caller works on the
    current one. The caller's stream waits for the copy, the host never does. A batch is the
    caller's as if `Batch.to` had made it; `depth` more take up the GPU's memory. Tensors that
    `loader` has put on the GPU are not copied. On the CPU its batches pass through.

    `state_dict` counts the batches handed out, not those read ahead. An iteration that is left
    early sets `loader` back to the first batch not handed out.
    """

    def __init__(self, loader: Loader, device: torch.device | str, *, depth: int = 1) -> None:
        """depth: batches read ahead; 1 is enough unless a step is shorter than a copy. The batches
        of `loader` should be pinned."""
        self.loader, self.device, self.depth = loader, torch.device(device), depth
        self._copies: CopyQueue | None = None
        if self.device.type == "cuda":
            self._copies = CopyQueue(Cuda(self.device))
        # The loader's state after the last batch handed out, while the loader is ahead of it.
        self._state: dict[str, Any] | None = None
        self._iteration = CurrentIteration()

    @property
    def epoch(self) -> int:
        """The epoch that `__iter__` draws from; see `Loader` for all methods."""
        return self.loader.epoch

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        self._iteration.stop()
        if self._copies is None:
            return iter(self.loader)
        return self._iteration.start(self._batches(self._copies))

    def example(self) -> Batch:
        return self.loader.example().to(self.device)

    def fixed_batch(self, count: int) -> Batch:
        self._iteration.stop()
        return self.loader.fixed_batch(count).to(self.device)

    def set_epoch(self, epoch: int) -> None:
        self._iteration.stop()
        self.loader.set_epoch(epoch)

    @property
    def sampler(self) -> Sampler:
        return self.loader.sampler

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.loader.shape

    @property
    def resident(self) -> ResidentEpoch | None:
        return self.loader.resident

    def set_image_size(self, size: tuple[int, int]) -> None:
        self._iteration.stop()
        self.loader.set_image_size(size)

    def state_dict(self) -> dict[str, Any]:
        return self._state or self.loader.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._iteration.stop()
        self.loader.load_state_dict(state)

    def report(self) -> dict[str, int | float]:
        return self.loader.report()

    def close(self) -> None:
        self._iteration.stop()
        self.loader.close()
        if self._copies:
            self._copies.finish()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _batches(self, copies: CopyQueue) -> Generator[Batch, None, None]:
        ahead: deque[tuple[PendingCopy, dict[str, Any]]] = deque()
        self._state = self.loader.state_dict()
        try:
            with contextlib.closing(iter(self.loader)) as batches:
                for batch in batches:
                    ahead.append((copies.start(batch), self.loader.state_dict()))
                    del batch
                    if len(ahead) > self.depth:
                        yield self._hand_out(copies, ahead)
                while ahead:
                    yield self._hand_out(copies, ahead)
        finally:
            state, self._state = self._state, None
            for copy, _ in ahead:
                copies.drop(copy)
            if ahead:
                self.loader.load_state_dict(state)

    def _hand_out(
        self, copies: CopyQueue, ahead: deque[tuple[PendingCopy, dict[str, Any]]]
    ) -> Batch:
        copy, self._state = ahead.popleft()
        return copies.hand_out(copy)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PendingCopy:
    """A batch that is being copied to the device."""

    target: Batch
    owner: Stream
    """The stream that `target`'s memory was allocated on: only its later work may reuse it."""
    done: Event
    """The copy is complete."""


class CopyQueue:
    """Orders copies and the work of the streams that use them; the host waits for neither.

    A copy's memory is allocated on the caller's stream, not on the copying one: so later work of
    the caller can reuse it at once, however far the host runs ahead.
    """

    def __init__(self, cuda: Cuda) -> None:
        self.cuda = cuda
        self._unfinished: deque[tuple[Event, Batch]] = deque()

    def start(self, source: Batch) -> PendingCopy:
        """Start to copy a batch, after the work that the caller's stream has queued so far."""
        while self._unfinished and self._unfinished[0][0].query():
            self._unfinished.popleft()
        owner, copying = self.cuda.current(), self.cuda.copying
        target = mapped(source, self._allocate)
        copying.wait_stream(owner)  # it may still use this memory for something else
        for into, tensor in zip(tensors_in(target), tensors_in(source), strict=True):
            if into is not tensor:
                self.cuda.copy(into, tensor)
        done = copying.record_event()
        # Keep the source until it has been read: pinned memory that torch did not allocate might be
        # used again before.
        self._unfinished.append((done, source))
        return PendingCopy(target=target, owner=owner, done=done)

    def _allocate(self, tensor: Tensor) -> Tensor:
        return tensor if self.cuda.holds(tensor) else self.cuda.empty_like(tensor)

    def hand_out(self, copy: PendingCopy) -> Batch:
        """Return the batch, for the caller's current stream."""
        stream = self.cuda.current()
        stream.wait_event(copy.done)
        for tensor in tensors_in(copy.target):
            self.cuda.record_use(tensor, stream)
        return copy.target

    def drop(self, copy: PendingCopy) -> None:
        """Make it safe to release a copy that was not handed out."""
        copy.owner.wait_event(copy.done)

    def finish(self) -> None:
        """Wait until all sources have been read."""
        while self._unfinished:
            done, _ = self._unfinished.popleft()
            done.synchronize()


class Cuda:
    """All calls of CUDA in this file, so that tests can replace them with a model."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.copying = device, torch.cuda.Stream(device)

    def current(self) -> Stream:
        return torch.cuda.current_stream(self.device)

    def holds(self, tensor: Tensor) -> bool:
        return tensor.is_cuda

    def empty_like(self, tensor: Tensor) -> Tensor:
        return torch.empty_like(tensor, device=self.device)

    def copy(self, target: Tensor, source: Tensor) -> None:
        with torch.cuda.stream(self.copying):
            target.copy_(source, non_blocking=True)

    def record_use(self, tensor: Tensor, stream: Stream) -> None:
        """Keep the memory until the work of `stream` is done; it may be another stream's."""
        tensor.record_stream(stream)
