"""Whole steps recorded together, on batches that the device makes: the run is the ordinary one."""

import functools
import json
import os
import signal

import pytest
import torch
import torch.distributed as dist
from resident_loader import ResidentLoader
from tape import record_on_tape
from tiny import tiny_model
from torch import nn
from torch.utils._pytree import tree_leaves
from toy_images import save_colours
from toy_trainer import CPU

from fastimae.engine import resident_step
from fastimae.engine.averaged_weights import EMA, AveragedWeights
from fastimae.engine.bucket_replica import BucketReplica
from fastimae.engine.build_step import build_step
from fastimae.engine.checkpoint import LAST, load_checkpoint
from fastimae.engine.metrics import NonFiniteLoss
from fastimae.engine.optim import build_optimizer
from fastimae.engine.plan import Plan
from fastimae.engine.resident_step import ResidentStep
from fastimae.engine.settings import ADAMW, MUON, StepSettings
from fastimae.engine.step import GraphedStep, Step
from fastimae.engine.trainer import Trainer
from fastimae.loaders import DevicePrefetch, create_loader
from fastimae.objectives import IMAE, MAE, Objective

SYNTHETIC = {"synthetic": True, "batch_size": 4, "mix_group": 2, "input_size": (32,)}
LONGEST = 4
"""Steps of a graph in these tests."""


@pytest.fixture(autouse=True)
def short_graphs(monkeypatch):
    monkeypatch.setattr(resident_step, "STEPS_PER_GRAPH", LONGEST)
    monkeypatch.setattr("fastimae.engine.feed.ResidentFeed.longest", LONGEST)


class Draws(Objective):
    """Draws torch's random numbers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.student = nn.Linear(3, 2)

    def forward(self, batch):
        x = batch.images.float().mean((1, 2)) / 255 + torch.rand(3)
        return {"loss": self.student(x.to(self.student.weight.dtype)).square().mean()}


model = functools.partial(tiny_model, depth=1, decoder_depth=1)


def mae():
    torch.manual_seed(0)
    return MAE(model(), mask_ratio=0.5)


def imae():
    torch.manual_seed(0)
    return IMAE(model(heads=2), model(), mask_ratio=0.5)


def step_of(objective, plan, kind, precision="fp32", replica=None, opt=ADAMW):
    """Return a step as on CUDA, where the learning rate is a tensor; with an average."""
    optimizer = build_optimizer(objective, 1e-2, 0.05, opt=opt)
    rate = torch.tensor(1e-2)
    for group in optimizer.param_groups:
        group |= {"lr": rate, "fused": False}
    return kind(
        objective, optimizer, precision=precision, device=CPU.device,
        accum_iter=plan.accum_iter, clip_grad=plan.clip_grad,
        replica=replica and replica(objective, CPU),
        average=AveragedWeights(objective.student, 0.9),
    )  # fmt: skip


def epoch_of(batches):
    """Return a resident epoch of these batches."""
    source = ResidentLoader(create_loader(**SYNTHETIC, synthetic_samples=16)).resident
    source._keep(batches)
    source.epoch = 0, source.loader.shape
    return source


def make(
    path, resident, *, objective=mae, loader=None, precision="fp32", opt=ADAMW, tape=False, **plan
):
    """Return the trainer of a small run; 11 batches an epoch by itself."""
    path.mkdir(exist_ok=True)
    plan = Plan(**{"epochs": 2, "log_steps": 7, "lr": 1e-2, "warmup_epochs": 1, **plan})
    step = step_of(objective(), plan, ResidentStep if resident else Step, precision, opt=opt)
    if resident:
        step.record = functools.partial(record_on_tape, step) if tape else lambda work: work
        taken = step.taken = []
        take = step.take
        step.take = lambda rates: taken.append(len(rates)) or take(rates)
    if loader is None:
        loader = create_loader(**SYNTHETIC, synthetic_samples=44)
        loader = (ResidentLoader if resident else DevicePrefetch)(loader, "cpu")
    return Trainer(step, loader, plan, CPU, path)


def left_by(run):
    """Return what a run has left: weights, moments, positions, and its log without times."""
    lines = [json.loads(line) for line in (run.output_dir / "log.txt").read_text().splitlines()]
    log = [{n: v for n, v in line.items() if n.startswith("train_")} for line in lines]
    last = load_checkpoint(run.output_dir / LAST)
    return [log, *(last[name] for name in ("model", EMA, "optimizer", "loader", "metrics"))]


def assert_equal(run, other):
    for one, two in zip(*(tree_leaves(left_by(each)) for each in (run, other)), strict=True):
        assert torch.equal(one, two) if torch.is_tensor(one) else one == two


@pytest.mark.parametrize(
    ("objective", "plan"),
    [
        (mae, {"accum_iter": 2, "clip_grad": 0.5, "precision": "bf16"}),
        (imae, {"precision": "bf16", "save_steps": 3, "opt": MUON}),
        (mae, {"resolution_schedule": ("16@0", "32@1")}),
    ],
)
def test_a_run_without_the_host_is_the_ordinary_run(objective, plan, tmp_path):
    ordinary = make(tmp_path / "ordinary", False, objective=objective, **plan)
    resident = make(tmp_path / "resident", True, objective=objective, tape=True, **plan)
    assert ordinary.run() and resident.run()
    assert_equal(resident, ordinary)
    assert max(resident.step.taken) > 1 and resident.step.failure is None


def test_a_run_with_the_samples_on_the_device_is_one_that_decodes_them(tmp_path):
    """With the real loader: random crops, flips, and an epoch of 7 steps."""
    save_colours(tmp_path / "data", per_class=10)
    data = {"data_path": tmp_path / "data", "input_size": (32,), "batch_size": 4, "num_workers": 0}
    runs = []
    for cache in ("none", "device"):
        loader = DevicePrefetch(create_loader(**data, cache=cache, tell=False), "cpu")
        run = make(tmp_path / cache, cache == "device", loader=loader, log_steps=4)
        assert run.run()
        runs.append(run)
    assert_equal(*runs)
    assert runs[1].step.taken == [1, 3, 3, 4, 3]


def test_steps_are_taken_until_the_host_has_something_to_do(tmp_path):
    """Losses are read after the first step, after 7 and at the end of an epoch of 11 steps, and
    saves are after 5 and 10. At most four steps are one graph."""
    run = make(tmp_path, True, save_steps=5)
    run.run()
    assert run.step.taken == [1, 4, 2, 3, 1, 4, 1, 2, 3, 1]


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_a_resumed_run_is_the_uninterrupted_run(stop, tmp_path):
    """It stops at the end of the steps that are under way."""
    whole = make(tmp_path / "whole", False)
    whole.run()
    first = make(tmp_path / "parts", True)
    take = first.step.take

    def signalled(rates):
        if len(first.step.taken) + 1 == stop:
            os.kill(os.getpid(), signal.SIGTERM)
        return take(rates)

    first.step.take = signalled
    assert first.run() is False and len(first.step.taken) == stop
    second = make(tmp_path / "parts", True)
    last = tmp_path / "parts" / LAST
    second.load_state_dict(load_checkpoint(last), last)
    assert second.update == sum(first.step.taken) % 11
    assert second.run() is True
    assert_equal(second, whole)


def test_the_samples_of_a_loss_that_is_not_finite_are_named(tmp_path):
    reports = []
    for resident in (False, True):
        run = make(tmp_path / str(resident), resident, log_steps=4)
        forward = run.objective.forward
        poison = next(iter(create_loader(**SYNTHETIC, synthetic_samples=44))).index[0].item()

        def poisoned(batch, forward=forward, run=run, poison=poison):
            parts = forward(batch)
            wrong = (batch.index == poison).any() & (run.epoch == 1)
            return {"loss": torch.where(wrong, torch.nan, parts["loss"])}

        run.objective.forward = poisoned
        with pytest.raises(NonFiniteLoss):
            run.run()
        reports.append(json.loads((run.output_dir / "nonfinite-rank0.json").read_text()))
    assert reports[0] == reports[1] and len(reports[0]["samples"]) == 4


def test_an_objective_that_draws_takes_single_steps_with_their_seeds(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(resident_step.log, "info", lambda line, *_: said.append(line))
    ordinary = make(tmp_path / "ordinary", False, objective=Draws)
    resident = make(tmp_path / "resident", True, objective=Draws, tape=True)
    assert ordinary.run() and resident.run()
    assert_equal(resident, ordinary)
    assert not resident.step.taken and sum("one by one" in line for line in said) == 1


def test_where_recording_fails_the_run_is_the_ordinary_one(tmp_path):
    ordinary = make(tmp_path / "ordinary", False)
    resident = make(tmp_path / "resident", True)

    def fail(work):
        raise RuntimeError("out of memory")

    resident.step.record = fail
    assert ordinary.run() and resident.run()
    assert_equal(resident, ordinary)
    assert resident.step.failure and not resident.step.taken


def test_groups_take_their_share_of_the_learning_rate(make_batch):
    """Each step its own, although one graph takes them all; afterwards the groups have the last."""
    rates = [1e-3, 3e-3, 2e-3, 5e-3]
    plain, whole = (step_of(mae(), Plan(), kind) for kind in (Step, ResidentStep))
    for step in (plain, whole):
        step.optimizer.param_groups[0] |= {"lr_scale": 0.3, "lr": torch.tensor(0.0)}
    batches = [make_batch(4) for _ in rates]
    for batch, rate in zip(batches, rates, strict=True):
        plain([batch], rate)
    whole.record = lambda work: work
    source = epoch_of(batches)
    assert whole.prepare_whole(source, 0, len(rates))
    source.begin(0, 0)
    whole.take(rates)
    for one, other in zip(plain.objective.parameters(), whole.objective.parameters(), strict=True):
        assert torch.equal(one, other)
    shown = [group["lr"].item() for group in whole.optimizer.param_groups]
    assert shown == pytest.approx([0.3 * 5e-3, 5e-3])


@pytest.mark.parametrize("accum_iter", [1, 2])
def test_gradients_in_buckets_are_averaged_within_the_graph(accum_iter, make_batch):
    """With gloo, in a group of one process; reductions are recorded as NCCL's are."""
    batches = [make_batch(4) for _ in range(3 * accum_iter)]
    rates = [1e-3, 3e-3, 2e-3]
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        plain, whole = (
            step_of(mae(), Plan(accum_iter=accum_iter), kind, "bf16", BucketReplica)
            for kind in (Step, ResidentStep)
        )
        for number, rate in enumerate(rates):
            plain(batches[number * accum_iter : (number + 1) * accum_iter], rate)
        whole.record = functools.partial(record_on_tape, whole)
        source = epoch_of([*batches, *batches])  # recording on a tape computes, too
        assert whole.prepare_whole(source, 0, len(rates)) and whole.failure is None
        source.begin(0, 0)
        whole.take(rates)
    finally:
        dist.destroy_process_group()
    for one, other in zip(plain.objective.parameters(), whole.objective.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_step_is_made_for_its_loader(monkeypatch):
    monkeypatch.setattr("fastimae.engine.build_step.wants_graph", lambda *_: True)
    monkeypatch.setattr("fastimae.engine.build_step.build_optimizer", lambda *_, **__: None)
    loader = create_loader(**SYNTHETIC, synthetic_samples=16)
    for wrap, kind in ((DevicePrefetch, GraphedStep), (ResidentLoader, ResidentStep)):
        step = build_step(mae(), StepSettings(), Plan(), CPU, wrap(loader, "cpu"))
        assert type(step) is kind
