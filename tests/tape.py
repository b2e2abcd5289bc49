"""A model of a CUDA graph on the CPU: a function's operations, recorded once and replayed.

A replay does not call the function, but each operation of torch that it ran, in the same order and
on the same memory. So its results depend only on memory, as on a GPU: what the function computed in
Python, or which gradients it found, is fixed, and reading a number is an error.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fastimae.engine import buckets
from fastimae.engine.step import GraphedStep


class Tape(TorchDispatchMode):
    """Records the operations of a block, and reductions over processes with their `wait`."""

    def __init__(self) -> None:
        super().__init__()
        self.actions: list[Callable[[], None]] = []
        self.events: list[str] = []
        """Reductions, waits, and what `note` adds, of the recording and of replays."""
        self.works: dict[int, dist.Work] = {}

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        if op is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("operation not permitted when stream is capturing")
        kwargs = kwargs or {}
        result = op(*args, **kwargs)
        if op.namespace != "c10d":  # see `reduce`
            self.actions.append(lambda: _put(op(*args, **kwargs), result))
        return result

    def reduce(self, flat: Tensor, how: dist.ReduceOp, async_op: bool) -> Handle:
        """Replace torch.distributed.all_reduce."""
        number = len(self.works)

        def send() -> None:
            self.events.append(f"send {number}")
            self.works[number] = dist.all_reduce(flat, how, async_op=True)

        self._do(send)
        return Handle(self, number)

    def wait(self, number: int) -> None:
        def wait() -> None:
            self.events.append(f"wait {number}")
            self.works[number].wait()

        self._do(wait)

    def note(self, event: str) -> None:
        """Add an event that replays repeat."""
        self._do(lambda: self.events.append(event))

    def replay(self) -> None:
        with torch.inference_mode():  # as part of the recorded tensors may be
            for action in self.actions:
                action()

    def _do(self, action: Callable[[], None]) -> None:
        self.actions.append(action)
        action()


class Handle:
    """A running reduction."""

    def __init__(self, tape: Tape, number: int) -> None:
        self.wait = lambda: tape.wait(number)


@contextlib.contextmanager
def taped() -> Iterator[Tape]:
    """Return a tape of the block, including the reductions of `Buckets`."""
    tape, real = Tape(), buckets.dist

    class Network:
        def __getattr__(self, name: str) -> object:
            return tape.reduce if name == "all_reduce" else getattr(real, name)

    buckets.dist = Network()
    try:
        with tape:
            yield tape
    finally:
        buckets.dist = real


def record_on_tape(
    step: GraphedStep, function: Callable[[], Tensor | None]
) -> Callable[[], Tensor | None]:
    """Record for `GraphedStep.record`. As on CUDA, recording computes nothing, but counts as a
    change of tensors; replays change tensors without counting."""
    tensors = _lasting(step)
    before = [tensor.detach().clone() for tensor in tensors]
    with taped() as tape:
        result = function()
    for tensor, old in zip(tensors, before, strict=True):
        tensor.data.copy_(old)

    def replay() -> Tensor | None:
        with torch.autograd._unsafe_preserve_version_counter(tensors):
            tape.replay()
        return result

    return replay


def _lasting(step: GraphedStep) -> tuple[Tensor, ...]:
    """Return the tensors that a step changes and the next one reads."""
    own = [*step.objective.parameters(), *step.objective.buffers()]
    moments = [x for state in step.optimizer.state.values() for x in state.values()]
    copies = [*step.copies.of.values()] if step.copies else []
    gradients = [leaf.grad for leaf in (*own, *copies) if leaf.grad is not None]
    sums = (
        [bucket.flat for bucket in step.replica.buckets.buckets]
        if step.replica.sums_gradients
        else []
    )
    averages = step.average.changing() if step.average else []
    return (*own, *moments, *copies, *gradients, *sums, *averages)


def _put(again: object, result: object) -> None:
    """Copy an operation's new results to where its first results were."""
    for new, old in zip(tree_leaves(again), tree_leaves(result), strict=True):
        if isinstance(new, Tensor) and new.data_ptr() != old.data_ptr():
            old.copy_(new)
