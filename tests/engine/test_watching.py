"""--profile and --nan_check: their findings and files."""

import gzip
import json
import logging
import math

import pytest
import torch
from torch import nn

from fastimae.engine.metrics import NonFiniteLoss
from fastimae.engine.nan_check import check_modules
from fastimae.engine.profile import FIRST, LAST, Profile


@pytest.mark.parametrize("longest", [1, 7])
def test_a_profile_holds_steps_20_to_30(longest, tmp_path):
    """Also if several are taken at once."""
    profile, step = Profile(tmp_path, rank=0), 0
    while step < LAST + 5:
        count = min(longest, profile.steps_left())
        for _ in range(count):
            step += 1
            with torch.profiler.record_function(f"step {step}"):
                torch.ones(4) + 1
        profile.step(count)
    profile.close()
    with gzip.open(tmp_path / "profile-rank0.json.gz") as file:
        names = {event.get("name") for event in json.load(file)["traceEvents"]}
    steps = {int(name.split()[1]) for name in names if str(name).startswith("step ")}
    assert steps == set(range(FIRST, LAST + 1))
    assert "aten::add" in (tmp_path / "profile-rank0.txt").read_text()


def test_a_run_too_short_for_a_profile_says_so(tmp_path, caplog):
    logging.getLogger("fastimae").propagate = True
    profile = Profile(tmp_path, rank=0)
    profile.step()
    profile.close()
    assert "steps 20 to 30: there were 1" in caplog.text and not list(tmp_path.iterdir())


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.inner = nn.Linear(2, 2), nn.ModuleList([nn.Linear(2, 2), nn.Tanh()])

    def forward(self, x):
        x = self.first(x)
        for part in self.inner:
            x = part(x)
        return {"loss": x.sum()}


def test_the_first_module_with_a_nan_is_named():
    model = Model()
    check_modules(model)
    model(torch.ones(1, 2))["loss"].backward()
    with torch.no_grad():
        model.inner[0].weight[0, 1] = math.inf
    with pytest.raises(NonFiniteLoss, match=r"output of inner\.0 has 1 of 2 values") as error:
        model(torch.ones(1, 2))
    assert "--precision fp32" in str(error.value)


def test_a_nan_that_begins_in_the_backward_pass_is_named():
    class Poison(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return grad * math.nan

    model = Model()
    model.inner[1].forward = lambda x: Poison.apply(torch.tanh(x))
    check_modules(model)
    parts = model(torch.ones(1, 2))
    with pytest.raises(NonFiniteLoss, match=r"gradient of the output of inner\.0"):
        parts["loss"].backward()
