"""The assembly of a trainer from settings."""

import pytest
import torch
from tiny import tiny_model

from fastimae.engine import assemble
from fastimae.engine.cores import Cores
from fastimae.engine.distributed import World
from fastimae.objectives import MAE


@pytest.mark.parametrize("processes", [1, 4])
def test_full_speed_is_that_of_all_devices_on_the_steps_threads(monkeypatch, processes):
    calls, objective = [], MAE(tiny_model())
    monkeypatch.setattr(Cores, "pin", lambda self: calls.append("pinned"))
    monkeypatch.setattr(assemble, "peak_rate", lambda *args: calls.append(args) or 1e12)
    world = World(0, processes, torch.device("cpu"))
    speed = assemble.full_speed(objective, world, "bf16", Cores((0, 1), (2,)))
    assert speed == pytest.approx(processes * 1e12 / objective.train_flops())
    assert calls == ["pinned", (world.device, "bf16")]
