"""Running statistics (batch normalisation's): each process has its own, and goes on with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fastimae.engine.distributed import World

if TYPE_CHECKING:
    from fastimae.objectives.base import Objective

KEY = "statistics"


def statistics_of_all(objective: Objective, world: World) -> dict[str, Any]:
    """{KEY: the floating-point buffers of each process, by rank} for a checkpoint; {} of one
    process, and where there are no such buffers. All processes call it."""
    own = _floating(objective)
    if world.size == 1 or not own:
        return {}
    by_name = {name: world.all(buffer) for name, buffer in own.items()}
    return {
        KEY: [
            {name: everyone[rank].clone() for name, everyone in by_name.items()}
            for rank in range(world.size)
        ]
    }


def load_statistics(objective: Objective, content: dict[str, Any], world: World) -> None:
    """Give this process its own of a checkpoint's; of another number of processes, the mean."""
    everyone = content.get(KEY, [])
    if not everyone:
        return
    for name, buffer in _floating(objective).items():
        if len(everyone) == world.size:
            buffer.copy_(everyone[world.rank][name])
        else:
            buffer.copy_(torch.stack([of_rank[name] for of_rank in everyone]).mean(0))


def _floating(objective: Objective) -> dict[str, Tensor]:
    """The student's by name, and those beside it by names that the student's cannot have."""
    extra = objective.extra_state()
    others = {f"/{name}": b for name, b in objective.named_buffers() if name in extra}
    named = dict(objective.student.named_buffers()) | others
    return {name: buffer for name, buffer in named.items() if buffer.is_floating_point()}
