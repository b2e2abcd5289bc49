"""Learning rates and parameter groups, as in MAE."""

import math
import sys
import types

import pytest
import torch
from torch import nn

from fastimae.engine.optim import (
    Schedule,
    build_optimizer,
    load_optimizer,
    scaled_lr,
    set_lr,
)
from fastimae.models import create_model
from fastimae.objectives import IMAE


def test_schedule_is_linear_then_half_a_cosine():
    schedule = Schedule(lr=2.0, min_lr=0.5, warmup_epochs=4, epochs=20)
    assert schedule.at(0) == 0
    assert schedule.at(1) == pytest.approx(0.5)
    assert schedule.at(4) == pytest.approx(2.0)
    assert schedule.at(12) == pytest.approx(1.25)
    assert schedule.at(8) == pytest.approx(0.5 + 1.5 * 0.5 * (1 + math.cos(math.pi / 4)))
    assert schedule.at(20) == pytest.approx(0.5)


def test_schedule_without_warm_up_or_without_decay():
    assert Schedule(lr=1.0, min_lr=0, warmup_epochs=0, epochs=3).at(0) == 1.0
    assert Schedule(lr=1.0, min_lr=0, warmup_epochs=40, epochs=2).at(1) == pytest.approx(1 / 40)


def test_lr_scales_with_the_effective_batch():
    assert scaled_lr(1.5e-4, 4096) == pytest.approx(2.4e-3)


def test_vectors_do_not_decay_and_frozen_tensors_do_not_train():
    student = create_model("mae_vit_tiny_patch4", img_size=8, heads=2)
    teacher = create_model("mae_vit_tiny_patch4", img_size=8)
    objective = IMAE(student, teacher)
    plain, decayed = build_optimizer(objective, 1e-3, 0.05).param_groups
    names = {id(p): n for n, p in student.named_parameters()}
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.05, 0.0)
    assert decayed["betas"] == (0.9, 0.95)
    trained = {names[id(p)] for group in (decayed, plain) for p in group["params"]}
    assert trained == set(names.values()) - {"pos_embed", "decoder_pos_embed"}
    assert all(p.ndim <= 1 for p in plain["params"]) and all(p.ndim > 1 for p in decayed["params"])
    assert {"norm.weight", "blocks.0.attn.qkv.bias"} <= {names[id(p)] for p in plain["params"]}


def test_a_step_equals_adamw_by_hand():
    layer = torch.nn.Linear(3, 2)
    optimizer = build_optimizer(layer, 0.1, 0.05)
    weight, x = layer.weight.detach().clone(), torch.randn(4, 3)
    layer(x).square().sum().backward()
    grad = layer.weight.grad.clone()
    optimizer.step()
    expected = weight * (1 - 0.1 * 0.05) - 0.1 * grad / (grad.abs() + 1e-8)
    torch.testing.assert_close(layer.weight.detach(), expected, rtol=1e-5, atol=1e-6)


def test_layer_decay_scales_the_rate_of_a_group():
    layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(2))
    groups = [{"params": layers[0].parameters(), "lr_scale": 0.25}, {"params": layers[1].weight}]
    optimizer = torch.optim.AdamW(groups, lr=1.0)
    optimizer.param_groups[1]["lr"] = torch.tensor(1.0)
    set_lr(optimizer, 0.1)
    assert [float(g["lr"]) for g in optimizer.param_groups] == pytest.approx([0.025, 0.1])


def test_rates_keep_their_kind_over_a_resume():
    """A run with CUDA graphs, whose rate is a tensor, and one without read each other's files."""
    layer = nn.Linear(2, 2)
    plain, recorded = build_optimizer(layer, 0.1, 0.05), build_optimizer(layer, 0.1, 0.05)
    for group in recorded.param_groups:
        group["lr"] = torch.tensor(0.1)
    rate = recorded.param_groups[0]["lr"]
    set_lr(plain, 0.5)
    load_optimizer(recorded, plain.state_dict())
    assert recorded.param_groups[0]["lr"] is rate and rate.item() == 0.5
    set_lr(recorded, 0.25)
    load_optimizer(plain, recorded.state_dict())
    assert plain.param_groups[0]["lr"] == 0.25 and not torch.is_tensor(plain.param_groups[0]["lr"])


def test_apex_is_nvidias_or_an_error(monkeypatch):
    layer = nn.Linear(2, 2)
    monkeypatch.setitem(sys.modules, "apex", types.ModuleType("apex"))  # the one of PyPI
    monkeypatch.setitem(sys.modules, "apex.optimizers", None)
    with pytest.raises(ValueError, match="--opt apex_adam needs NVIDIA apex"):
        build_optimizer(layer, 0.1, 0.05, opt="apex_adam")
    nvidia = types.ModuleType("apex.optimizers")
    nvidia.FusedAdam = lambda groups, **settings: (groups, settings)
    monkeypatch.setitem(sys.modules, "apex.optimizers", nvidia)
    groups, settings = build_optimizer(layer, 0.1, 0.05, opt="apex_adam")
    assert settings == {"lr": 0.1, "betas": (0.9, 0.95), "adam_w_mode": True}
    assert [group["weight_decay"] for group in groups] == [0.0, 0.05]
