"""Learning rates and parameter groups, as in MAE."""

import math

import pytest
import torch

from fastimae.engine.optim import Schedule, build_adamw, scaled_lr
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
    decayed, plain = build_adamw(objective, 1e-3, 0.05).param_groups
    names = {id(p): n for n, p in student.named_parameters()}
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.05, 0.0)
    assert decayed["betas"] == (0.9, 0.95)
    trained = {names[id(p)] for group in (decayed, plain) for p in group["params"]}
    assert trained == set(names.values()) - {"pos_embed", "decoder_pos_embed"}
    assert all(p.ndim <= 1 for p in plain["params"]) and all(p.ndim > 1 for p in decayed["params"])
    assert {"norm.weight", "blocks.0.attn.qkv.bias"} <= {names[id(p)] for p in plain["params"]}


def test_a_step_equals_adamw_by_hand():
    layer = torch.nn.Linear(3, 2)
    optimizer = build_adamw(layer, 0.1, 0.05)
    weight, x = layer.weight.detach().clone(), torch.randn(4, 3)
    layer(x).square().sum().backward()
    grad = layer.weight.grad.clone()
    optimizer.step()
    expected = weight * (1 - 0.1 * 0.05) - 0.1 * grad / (grad.abs() + 1e-8)
    torch.testing.assert_close(layer.weight.detach(), expected, rtol=1e-5, atol=1e-6)
