"""How a run chooses the fast paths of its step, and errors if they are impossible."""

import logging

import pytest
import torch

from fastimae.arguments import parse_training
from fastimae.engine import fp8
from fastimae.engine.build_step import build_step, prepare_objective, wants_graph
from fastimae.engine.distributed import World
from fastimae.engine.one_pass_adamw import OnePassAdamW
from fastimae.engine.replica import Replica
from fastimae.loaders import create_loader
from fastimae.models import create_model
from fastimae.objectives import IMAE, MAE
from fastimae.settings import ConfigError

CPU, GPU = torch.device("cpu"), torch.device("cuda")
MODEL = {"name": "mae_vit_nano_patch8", "img_size": 32}


def config(flags=""):
    return parse_training("fastimae-train", f"--synthetic {flags}".split())


@pytest.mark.parametrize(
    ("flags", "world", "precision", "expected"),
    [
        ("", World(0, 1, GPU), "bf16", True),
        ("", World(0, 1, GPU), "fp16", False),
        ("", World(0, 2, GPU), "bf16", True),
        ("", World(0, 2, GPU), "fp32", False),
        ("--parallel fsdp", World(0, 2, GPU), "bf16", False),
        ("--update torch", World(0, 2, GPU), "bf16", False),
        ("", World(0, 2, CPU), "bf16", False),
        ("", World(0, 1, CPU), "bf16", False),
        ("--nan_check", World(0, 1, GPU), "bf16", False),
        ("--opt apex_adam", World(0, 1, GPU), "bf16", False),
        ("--opt muon", World(0, 2, GPU), "bf16", True),
        ("--cuda_graph off", World(0, 1, GPU), "bf16", False),
        ("--cuda_graph on", World(0, 1, GPU), "fp32", True),
    ],
)
def test_when_the_step_is_recorded(flags, world, precision, expected):
    assert wants_graph(config(flags).optim, world, precision) is expected


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("--precision bf16", True),
        ("--precision fp32", False),
        ("--precision bf16 --update torch", False),
        ("--precision bf16 --opt muon", True),
    ],
)
def test_processes_average_in_buckets_what_one_pass_updates(flags, expected, monkeypatch):
    """Otherwise torch averages, and torch's AdamW updates."""
    asked = []

    def parallelise(objective, *_, in_buckets):
        asked.append(in_buckets)
        return Replica(objective)

    monkeypatch.setattr("fastimae.engine.build_step.parallelise", parallelise)
    how = config(flags).optim
    step = build_step(MAE(create_model(**MODEL)), how, how, World(0, 2, CPU))
    assert asked == [expected]
    assert isinstance(step.optimizer, OnePassAdamW) or not expected


@pytest.mark.parametrize(
    ("world", "precision", "words"),
    [
        (World(0, 1, CPU), "bf16", "needs a CUDA device"),
        (World(0, 2, GPU), "fp16", "needs one process, or --parallel ddp --update auto in bf16"),
    ],
)
def test_what_was_asked_for_and_cannot_be_is_an_error(world, precision, words):
    with pytest.raises(ConfigError, match=f"--cuda_graph on {words}"):
        wants_graph(config("--cuda_graph on").optim, world, precision)
    with pytest.raises(ConfigError, match="drop --compile on"):
        config("--nan_check --compile on")


def imae(**settings):
    return IMAE(create_model(**MODEL, heads=2), create_model(**MODEL), **settings)


@pytest.fixture
def loader():
    with create_loader(
        synthetic=True, synthetic_samples=16, input_size=(32, 32), batch_size=4, mix_group=2
    ) as made:
        yield made


def test_a_teacher_is_bf16_for_good_and_a_student_is_not(loader):
    objective = imae()
    prepare_objective(objective, config().optim, CPU, "bf16", loader)
    assert {p.dtype for p in objective.teacher.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in objective.student.parameters()} == {torch.float32}


def test_an_fp8_teachers_error_is_reported_and_the_loader_is_where_it_was(
    loader, monkeypatch, caplog
):
    def add_noise(teacher):
        for p in teacher.parameters():
            p.mul_(1 + 2**-4)

    before = loader.state_dict()
    monkeypatch.setattr(fp8, "quantise", add_noise)
    logging.getLogger("fastimae").propagate = True
    caplog.set_level(logging.INFO, "fastimae")
    prepare_objective(imae(teacher_precision="fp8"), config().optim, CPU, "bf16", loader)
    moved = float(caplog.text.split("move by ")[1].split()[0])
    assert 1 < moved < 30 and loader.state_dict() == before
    with pytest.raises(ConfigError, match="--teacher_precision fp8 needs --precision bf16"):
        prepare_objective(imae(teacher_precision="fp8"), config().optim, CPU, "fp32", loader)


def test_the_distance_is_relative(monkeypatch):
    layer = torch.nn.Linear(4, 4, bias=False)
    x = torch.randn(8, 4)
    monkeypatch.setattr(fp8, "quantise", lambda module: module.weight.mul_(1.25))
    assert fp8.quantise_and_compare(layer, lambda: layer(x)) == pytest.approx(0.25)


def test_fp8_needs_a_gpu_that_has_it():
    with pytest.raises(ValueError, match=r"--teacher_precision fp8 needs a GPU"):
        fp8.quantise(torch.nn.Linear(4, 4))
