"""Running statistics of batch normalisation: each process saves and resumes its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fastimae.engine.distributed import World

if TYPE_CHECKING:
    from fastimae.objectives.base import Objective

KEY = "statistics"


def statistics_of_all(objective: Objective, world: World) -> dict[str, Any]:
    """Return {KEY: floating-point buffers of each process, by rank} for a checkpoint; {} for one
    process, or if there are no such buffers. All processes must call it."""
    buffers = _floating_buffers(objective)
    if world.size == 1 or not buffers:
        return {}
    by_name = {name: world.all(buffer) for name, buffer in buffers.items()}
    return {
        KEY: [
            {name: everyone[rank].clone() for name, everyone in by_name.items()}
            for rank in range(world.size)
        ]
    }


def load_statistics(objective: Objective, content: dict[str, Any], world: World) -> None:
    """Load this process's buffers; their mean if another number of processes saved them."""
    everyone = content.get(KEY, [])
    if not everyone:
        return
    for name, buffer in _floating_buffers(objective).items():
        if len(everyone) == world.size:
            buffer.copy_(everyone[world.rank][name])
        else:
            buffer.copy_(torch.stack([of_rank[name] for of_rank in everyone]).mean(0))


def _floating_buffers(objective: Objective) -> dict[str, Tensor]:
    """Return the student's buffers by name, and those of `extra_state` with a "/" before theirs,
    which no name of the student begins with."""
    extra = objective.extra_state()
    others = {f"/{name}": b for name, b in objective.named_buffers() if name in extra}
    named = dict(objective.student.named_buffers()) | others
    return {name: buffer for name, buffer in named.items() if buffer.is_floating_point()}
