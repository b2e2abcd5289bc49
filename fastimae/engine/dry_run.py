"""Dry runs of training steps: they compile, load and allocate, but change no training state."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from fastimae.objectives.base import Objective


@contextlib.contextmanager
def dry_run(
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    device: torch.device,
    also: Sequence[Tensor] = (),
) -> Iterator[None]:
    """Let forward and backward passes, and updates along zero gradients, change nothing.

    The caller clears the gradients. Moments that did not exist yet exist afterwards, as zeros, like
    before a first step. Neither the student nor existing moments are copied; during the block, the
    moments of one more optimizer are in memory. also: further tensors to restore, by a copy.
    """
    gpu = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(gpu), _kept_state(objective, also), _own_moments(optimizer):
        yield


@contextlib.contextmanager
def _kept_state(objective: Objective, also: Sequence[Tensor]) -> Iterator[None]:
    """Restore the buffers, which passes change, and what updates move: parameters, and `also`."""
    saved = [
        (owner._buffers, name, buffer, buffer.clone())
        for owner in objective.modules()
        for name, buffer in owner._buffers.items()
        if buffer is not None
    ]
    fixed = [teacher.module for teacher in objective.teachers().values() if not teacher.moves]
    unmoved = {p for module in (objective.student, *fixed) for p in module.parameters()}
    moving = [*(p for p in objective.parameters() if p not in unmoved), *also]
    copies = [tensor.detach().clone() for tensor in moving]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffers, name, buffer, before in saved:
                buffers[name] = buffer.copy_(before)
            for tensor, before in zip(moving, copies, strict=True):
                tensor.copy_(before)


@contextlib.contextmanager
def _own_moments(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Give the block separate moments and a learning rate of 0: not even weight decay moves a
    weight."""
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
