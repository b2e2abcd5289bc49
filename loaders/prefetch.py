"""Batches on the GPU before they are needed, copied while the step before runs."""

from __future__ import annotations

import contextlib
import dataclasses
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from typing import Any, Self

import torch
from torch import Tensor

from fastimae.loaders.base import Batch, Loader, Running

Event = Any
Stream = Any


class DevicePrefetch:
    """A loader whose batches are on `device`: use it in place of `loader`, which it closes.

    On CUDA the next `depth` batches are copied on a stream of their own while the caller works
    on the present one. The caller's stream waits for the copy, the host never does. A batch is
    the caller's as if `Batch.to` had made it; `depth` more are in the GPU's memory. What `loader`
    has put there itself stays where it is. On the CPU its batches pass through.

    `state_dict` speaks of the batches handed out, not of those read ahead. An iteration that is
    left early puts `loader` back to the first batch not handed out.
    """

    def __init__(self, loader: Loader, device: torch.device | str, *, depth: int = 1) -> None:
        """depth: 1 is enough unless a step is shorter than a copy. Batches should be pinned."""
        self.loader, self.device, self.depth = loader, torch.device(device), depth
        self._copies: Copies | None = None
        if self.device.type == "cuda":
            self._copies = Copies(Cuda(self.device))
        self._state: dict[str, Any] | None = None  # of the loader, while it is ahead
        self._running = Running()

    @property
    def epoch(self) -> int:
        """See `Loader`, here and below."""
        return self.loader.epoch

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        self._running.stop()
        if self._copies is None:
            return iter(self.loader)
        return self._running.start(self._batches(self._copies))

    def example(self) -> Batch:
        return self.loader.example().to(self.device)

    def set_epoch(self, epoch: int) -> None:
        self._running.stop()
        self.loader.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        return self._state or self.loader.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._running.stop()
        self.loader.load_state_dict(state)

    def report(self) -> dict[str, int | float]:
        return self.loader.report()

    def close(self) -> None:
        self._running.stop()
        self.loader.close()
        if self._copies:
            self._copies.finish()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _batches(self, copies: Copies) -> Generator[Batch, None, None]:
        ahead: deque[tuple[Copy, dict[str, Any]]] = deque()
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

    def _hand_out(self, copies: Copies, ahead: deque[tuple[Copy, dict[str, Any]]]) -> Batch:
        copy, self._state = ahead.popleft()
        return copies.hand_out(copy)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Copy:
    """A batch on its way to the device."""

    target: Batch
    owner: Stream
    """Whose work the allocator orders the use of `target`'s memory by."""
    done: Event


class Copies:
    """Orders copies and the work of the streams that use them, without waiting for either.

    The memory of a copy is allocated on the caller's stream, not on the copying one: so it can
    be used again at once by later work of the caller, however far the host runs ahead.
    """

    def __init__(self, cuda: Cuda) -> None:
        self.cuda = cuda
        self._unfinished: deque[tuple[Event, Batch]] = deque()

    def start(self, source: Batch) -> Copy:
        """Begin to copy a batch; it waits for the work that the caller has given out so far."""
        while self._unfinished and self._unfinished[0][0].query():
            self._unfinished.popleft()
        owner, copying = self.cuda.current(), self.cuda.copying
        places = {name: self._place_for(tensor) for name, tensor in _tensors(source)}
        target = dataclasses.replace(source, **places)
        copying.wait_stream(owner)  # which may still be using the memory for something else
        for (_, into), (_, tensor) in zip(_tensors(target), _tensors(source), strict=True):
            if into is not tensor:
                self.cuda.copy(into, tensor)
        done = copying.record_event()
        # Pinned memory that torch does not know of must not be written while it is being read.
        self._unfinished.append((done, source))
        return Copy(target=target, owner=owner, done=done)

    def _place_for(self, tensor: Tensor) -> Tensor:
        return tensor if self.cuda.holds(tensor) else self.cuda.empty_like(tensor)

    def hand_out(self, copy: Copy) -> Batch:
        """The batch, for the caller's present stream."""
        stream = self.cuda.current()
        stream.wait_event(copy.done)
        for _, tensor in _tensors(copy.target):
            self.cuda.use(tensor, stream)
        return copy.target

    def drop(self, copy: Copy) -> None:
        """Make it safe to let go of a copy that nobody got."""
        copy.owner.wait_event(copy.done)

    def finish(self) -> None:
        """Wait until no source is being read any more."""
        while self._unfinished:
            done, _ = self._unfinished.popleft()
            done.synchronize()


class Cuda:
    """What is asked of CUDA, so that tests can put a model in its place."""

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

    def use(self, tensor: Tensor, stream: Stream) -> None:
        """Keep the memory until the work of `stream` is done, if it is not the allocating one."""
        tensor.record_stream(stream)


def _tensors(batch: Batch) -> Iterable[tuple[str, Tensor]]:
    return [(field.name, getattr(batch, field.name)) for field in dataclasses.fields(batch)]
