"""Copies of master weights, for objectives that do more than call their modules."""

import pytest
import torch
from torch import nn

from fastimae.engine.optim import build_optimizer
from fastimae.engine.step import Step
from fastimae.objectives.base import Objective

CPU = torch.device("cpu")


class Penalised(Objective):
    """An objective whose loss uses a weight directly, beside the module that has it."""

    def __init__(self):
        super().__init__()
        self.student = nn.Linear(3, 4)
        self.weights = [self.student.weight]

    def forward(self, batch):
        x = batch.images.float().mean((1, 2)).to(self.student.weight.dtype) / 255
        penalty = sum(weight.square().sum() for weight in self.weights)
        return {"loss": self.student(x).float().square().mean() + 0.1 * penalty}


def train(objective, batches, *, one_pass, accum_iter):
    optimizer = build_optimizer(objective, 1e-2, 0.0, one_pass=one_pass)
    step = Step(objective, optimizer, precision="bf16", device=CPU, accum_iter=accum_iter)
    for place in range(0, len(batches), accum_iter):
        step(batches[place : place + accum_iter], 1e-2)
    return objective.student.weight.detach()


@pytest.mark.parametrize("accum_iter", [1, 2])
def test_a_weight_that_is_used_by_itself_too_gets_both_gradients(accum_iter, make_batch):
    batches, trained = [make_batch(4) for _ in range(10)], []
    for one_pass in (True, False):
        torch.manual_seed(0)
        trained.append(train(Penalised(), batches, one_pass=one_pass, accum_iter=accum_iter))
    assert torch.equal(*trained)
