"""Steps that leave no trace: what they compile, load and allocate is there, and nothing else."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from fastimae.objectives.base import Objective


@contextlib.contextmanager
def rehearsal(
    objective: Objective, optimizer: torch.optim.Optimizer, device: torch.device
) -> Iterator[None]:
    """Within, forward and backward passes and updates along gradients of zero change nothing.

    Gradients are the caller's to clear. Moments that were not there yet are there afterwards, as
    before a first step: zeros. No copy of the student or of moments is made; while the context
    lasts, the moments of one more optimizer are in memory.
    """
    gpu = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(gpu), _same_state(objective), _other_moments(optimizer):
        yield


@contextlib.contextmanager
def _same_state(objective: Objective) -> Iterator[None]:
    """Buffers, which passes change, and all that `after_update` does."""
    places = [
        (owner._buffers, name, buffer, buffer.clone())
        for owner in objective.modules()
        for name, buffer in owner._buffers.items()
        if buffer is not None
    ]
    fixed = [teacher.module for teacher in objective.teachers().values() if not teacher.moves]
    still = {p for module in (objective.student, *fixed) for p in module.parameters()}
    moving = [(p, p.detach().clone()) for p in objective.parameters() if p not in still]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffers, name, buffer, before in places:
                buffers[name] = buffer.copy_(before)
            for parameter, before in moving:
                parameter.copy_(before)


@contextlib.contextmanager
def _other_moments(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """At a rate of 0 neither gradients of zero nor weight decay move a weight."""
    state, rates = optimizer.state, [group["lr"] for group in optimizer.param_groups]
    optimizer.state = defaultdict(dict)
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = 0 * rate
    try:
        yield
    finally:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        fresh = {p: moments for p, moments in optimizer.state.items() if p not in state}
        for moments in fresh.values():
            for tensor in moments.values():
                tensor.zero_()
        optimizer.state = defaultdict(dict, fresh | state)
