"""A replica whose gradients our `Buckets` average, also if a CUDA graph records its passes."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fastimae.engine.buckets import Buckets
from fastimae.engine.distributed import World
from fastimae.engine.replica import Replica

if TYPE_CHECKING:
    from fastimae.objectives.base import Objective


class BucketReplica(Replica):
    """A replica whose gradients are averaged over processes by our `Buckets`.

    Raises ValueError if the objective trains weights that are not fp32.
    """

    averages = True
    sums_gradients = True

    def __init__(self, objective: Objective, world: World) -> None:
        trained = {p.dtype for p in objective.parameters() if p.requires_grad}
        if odd := trained - {torch.float32}:
            raise ValueError(
                f"--update auto averages gradients of fp32 weights, not of {odd.pop()}: "
                "use --update torch"
            )
        super().__init__(objective)
        self.world = world
        self.pulse = torch.zeros(1, device=world.device)
        self.summing = False
        _broadcast_weights(objective)

    def use_copies(self, copies: Mapping[nn.Parameter, Tensor]) -> None:
        """Fill buckets from the copies' gradients where a parameter has a copy."""
        parameters = [p for p in self.objective.parameters() if p.requires_grad]
        leaves = [copies.get(p, p) for p in parameters]
        self.buckets = Buckets(leaves)
        self.means = {p: self.buckets.means[x] for p, x in zip(parameters, leaves, strict=True)}

    @contextlib.contextmanager
    def sync_gradients(self, last: bool) -> Iterator[None]:
        """Surround a pass of a step. After the last one, each parameter's `grad` is its mean."""
        # False until the pass succeeds: sums from before a failed pass are lost, not reused.
        add, self.summing = self.summing, False
        with self._pass(add, last):
            yield
        self.summing = not last

    @contextlib.contextmanager
    def accumulate(self) -> Iterator[None]:
        """Surround a recorded pass. The sums its gradients are added to begin as zeros."""
        with self._pass(add=True, last=False):
            yield

    def average(self) -> None:
        self.buckets.average()
        self._hand_over()

    def any(self, flag: bool) -> bool:
        return self.world.any(flag)

    def heartbeat(self) -> None:
        """Reduce a number over all processes, so that torch notices one that is gone.

        Torch does not watch the reductions that a graph replays: unless a launcher notices, the
        other processes would wait forever for the lost one.
        """
        dist.all_reduce(self.pulse)

    @contextlib.contextmanager
    def _pass(self, add: bool, last: bool) -> Iterator[None]:
        for parameter in self.means:
            parameter.grad = None
        with self.buckets.backward(add=add, last=last):
            yield
        if any(parameter.grad is not None for parameter in self.means):
            raise RuntimeError(
                "a loss uses a weight directly, not through its module, or a weight has a gradient "
                "hook, so its gradient is not averaged over processes: use --update torch"
            )
        if last:
            self._hand_over()

    def _hand_over(self) -> None:
        for parameter, mean in self.means.items():
            parameter.grad = mean


def _broadcast_weights(objective: Objective) -> None:
    """Give all processes the main one's weights and buffers. Teachers that never change are left
    out: all processes have read them from one file."""
    fixed = [teacher.module for teacher in objective.teachers().values() if not teacher.moves]
    same = {id(tensor) for module in fixed for tensor in _tensors(module)}
    for tensor in _tensors(objective):
        if id(tensor) not in same:
            dense = tensor.detach().contiguous()
            dist.broadcast(dense, 0)
            tensor.detach().copy_(dense)


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    return itertools.chain(module.parameters(), module.buffers())
