"""Learning rates and parameter groups, as in MAE."""

import math
import sys
import types

import pytest
import torch
from interop.foreign_maes import TimmMAE
from torch import nn

from fastimae.engine.distributed import ALONE
from fastimae.engine.optim import (
    build_optimizer,
    load_optimizer,
    optimizer_state,
    set_lr,
)
from fastimae.engine.settings import OptimSettings
from fastimae.models import MaskedAutoencoder, create_model
from fastimae.objectives import IMAE, MAE


def test_schedule_is_linear_then_half_a_cosine():
    settings = OptimSettings(lr=2.0, min_lr=0.5, warmup_epochs=4, epochs=20)
    assert settings.lr_at(0, ALONE) == 0
    assert settings.lr_at(1, ALONE) == pytest.approx(0.5)
    assert settings.lr_at(4, ALONE) == pytest.approx(2.0)
    assert settings.lr_at(12, ALONE) == pytest.approx(1.25)
    assert settings.lr_at(8, ALONE) == pytest.approx(0.5 + 1.5 * 0.5 * (1 + math.cos(math.pi / 4)))
    assert settings.lr_at(20, ALONE) == pytest.approx(0.5)


def test_schedule_without_warm_up_or_without_decay():
    assert OptimSettings(lr=1.0, warmup_epochs=0, epochs=3).lr_at(0, ALONE) == 1.0
    warming = OptimSettings(lr=1.0, warmup_epochs=40, epochs=2)
    assert warming.lr_at(1, ALONE) == pytest.approx(1 / 40)


def test_lr_scales_with_the_effective_batch():
    settings = OptimSettings(blr=1.5e-4, batch_size=2048, accum_iter=2)
    assert settings.peak_lr(ALONE) == pytest.approx(2.4e-3)


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
    """Runs with CUDA graphs, whose rates are tensors, and without read each other's checkpoints."""
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


def test_maes_code_goes_on_from_our_state(tmp_path):
    """MAE makes groups with timm's factory; only the names of parameters are common."""
    factory = pytest.importorskip("timm.optim").param_groups_weight_decay
    ours = MaskedAutoencoder(
        img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=3, mlp_ratio=2.0,
        decoder_embed_dim=32, decoder_depth=1, decoder_num_heads=2,
    )  # fmt: skip
    theirs = TimmMAE()
    optimizer = build_optimizer(MAE(ours, mask_ratio=0.5), 1e-3, 0.05)

    def backward():
        ours(torch.rand(4, 3, 32, 32))[0].backward()

    for _ in range(3):
        backward()
        optimizer.step()
        optimizer.zero_grad()
    torch.save(
        {"model": ours.state_dict(), "optimizer": optimizer_state(optimizer)}, tmp_path / "x.pth"
    )
    saved = torch.load(tmp_path / "x.pth", weights_only=True)
    theirs.load_state_dict(saved["model"])
    foreign = torch.optim.AdamW(factory(theirs, 0.05), lr=1e-3, betas=(0.9, 0.95))
    foreign.load_state_dict(saved["optimizer"])
    backward()
    parameters = dict(ours.named_parameters())
    for name, parameter in theirs.named_parameters():
        parameter.grad = None if parameters[name].grad is None else parameters[name].grad.clone()
    optimizer.step(), foreign.step()
    for name, parameter in theirs.named_parameters():
        torch.testing.assert_close(parameter, parameters[name], rtol=1e-6, atol=1e-8, msg=name)
    assert [group["weight_decay"] for group in foreign.param_groups] == [0.0, 0.05]


def test_moments_find_their_parameters_in_either_order():
    """In the order of format 1 and in the current one; other shapes are rejected."""
    layer = nn.Linear(3, 3)
    optimizer = build_optimizer(layer, 0.1, 0.05)
    layer(torch.rand(4, 3)).square().sum().backward()
    optimizer.step()
    state = optimizer.state_dict()
    plain, decayed = state["param_groups"]
    old = {
        "state": {0: state["state"][1], 1: state["state"][0]},
        "param_groups": [{**decayed, "params": [0]}, {**plain, "params": [1]}],
    }
    for saved in (state, old):
        fresh = build_optimizer(layer, 0.1, 0.05)
        load_optimizer(fresh, saved)
        for parameter in layer.parameters():
            for name, value in optimizer.state[parameter].items():
                assert torch.equal(fresh.state[parameter][name], value)
        assert [group["weight_decay"] for group in fresh.param_groups] == [0.0, 0.05]
    with pytest.raises(ValueError, match="of other parameters"):
        load_optimizer(build_optimizer(nn.Linear(4, 3), 0.1, 0.05), state)


def test_apex_is_nvidias_or_an_error(monkeypatch):
    layer = nn.Linear(2, 2)
    monkeypatch.setitem(sys.modules, "apex", types.ModuleType("apex"))  # PyPI's apex
    monkeypatch.setitem(sys.modules, "apex.optimizers", None)
    with pytest.raises(ValueError, match="--opt apex_adam needs NVIDIA apex"):
        build_optimizer(layer, 0.1, 0.05, opt="apex_adam")
    nvidia = types.ModuleType("apex.optimizers")
    nvidia.FusedAdam = lambda groups, **settings: (groups, settings)
    monkeypatch.setitem(sys.modules, "apex.optimizers", nvidia)
    groups, settings = build_optimizer(layer, 0.1, 0.05, opt="apex_adam")
    assert settings == {"lr": 0.1, "betas": (0.9, 0.95), "adam_w_mode": True}
    assert [group["weight_decay"] for group in groups] == [0.0, 0.05]
