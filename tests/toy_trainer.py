"""Trainers for tests: of a line on vectors, and of a small MAE."""

import math

import torch
from torch import nn

from fastimae.engine.distributed import World
from fastimae.engine.optim import build_optimizer
from fastimae.engine.plan import Plan
from fastimae.engine.step import GraphedStep, Step
from fastimae.engine.trainer import Trainer
from fastimae.loaders import DevicePrefetch, create_loader
from fastimae.loaders.order.epoch_steps import EpochSteps
from fastimae.models import create_model
from fastimae.objectives import MAE, Objective

CPU = World(0, 1, torch.device("cpu"))


class Samples:
    """A batch of vectors, with the fields that a trainer uses."""

    def __init__(self, index):
        self.index, self.x = index, torch.sin(index[:, None] * torch.arange(1.0, 4.0))

    def __len__(self):
        return len(self.index)


class Counting:
    """A loader of samples 0 .. n-1, shifted by the epoch."""

    def __init__(self, batch_size, n=24, accum_iter=1):
        self.batch_size, self.epoch, self.at, self.bad = batch_size, 0, 0, {}
        self.steps = EpochSteps(samples=n, data=0, stride=batch_size, accum_iter=accum_iter)

    def __len__(self):
        return len(self.steps)

    def __iter__(self):
        while self.at < len(self):
            self.at += 1
            first = (self.at - 1) * self.batch_size
            yield Samples(torch.arange(first, first + self.batch_size) + 100 * self.epoch)

    def report(self):
        return {"bad_samples": len(self.bad)}

    def set_epoch(self, epoch):
        self.epoch, self.at = epoch, 0

    def state_dict(self):
        return self.steps.state(self.epoch, self.at)

    def load_state_dict(self, state):
        self.epoch, self.at = self.steps.resume(state)


class Squares(Objective):
    """Minimises the squared output of a linear layer."""

    def __init__(self, poison=None):
        super().__init__()
        torch.manual_seed(3)
        self.student, self.poison, self.seen = nn.Linear(3, 2), poison, []

    def forward(self, batch):
        self.seen.append(batch.index.tolist())
        loss = self.student(batch.x).square().mean()
        if self.poison in batch.index.tolist():
            loss = loss * math.nan
        return {"loss": loss, "half": loss / 2}


def trainer(path, *, batch_size=4, n=24, objective=None, full_speed=None, precision="fp32", **plan):
    plan = Plan(**{"epochs": 3, "log_steps": 4, "lr": 0.1, "warmup_epochs": 1, **plan})
    return Trainer(
        step_of(objective or Squares(), plan, precision=precision),
        Counting(batch_size, n, plan.accum_iter),
        plan,
        CPU,
        path,
        args={"batch_size": batch_size},
        full_speed=full_speed,
    )


def step_of(objective, plan, kind=Step, precision="fp32"):
    return kind(
        objective,
        build_optimizer(objective, plan.lr, plan.weight_decay),
        precision=precision,
        device=CPU.device,
        accum_iter=plan.accum_iter,
        clip_grad=plan.clip_grad,
    )


def weights_of(run):
    return torch.cat([p.detach().flatten() for p in run.objective.parameters()])


class Noting(DevicePrefetch):
    """Notes in `seen` when an iteration starts."""

    def __iter__(self):
        self.seen.append("the loader starts")
        return super().__iter__()


def mae_trainer(path, seen, cuda_graph=False, **plan):
    """Return the trainer of a small MAE."""
    torch.manual_seed(0)
    objective = MAE(create_model("mae_vit_nano_patch8", img_size=16))
    loader = create_loader(
        synthetic=True, synthetic_samples=24, batch_size=4, input_size=(16, 16), mix_group=0
    )
    loader = Noting(loader, "cpu")
    loader.seen = seen
    plan = Plan(lr=1e-2, warmup_epochs=1, log_steps=4, accum_iter=2, **plan)
    step = step_of(objective, plan, GraphedStep if cuda_graph else Step)
    return Trainer(step, loader, plan, CPU, path)
