"""--opt muon: torch's Muon for the matrices of blocks, AdamW for the rest, in one optimizer."""

import copy

import pytest
import torch
from tape import record_on_tape
from torch import nn
from toy_trainer import CPU

from fastimae.engine.muon import MuonAdamW, muon_groups, orthogonalised
from fastimae.engine.optim import build_optimizer, load_optimizer, optimizer_state, set_lr
from fastimae.engine.step import GraphedStep, Step
from fastimae.models import create_model
from fastimae.objectives import MAE

LR, DECAY = 1e-2, 0.05
MODEL = {"name": "mae_vit_nano_patch8", "img_size": 32, "depth": 2}


def mae(**sizes):
    torch.manual_seed(0)
    return MAE(create_model(**{**MODEL, **sizes}))


def by_torch(objective):
    """Return torch's two optimizers, and copies of the parameters that they train, by name: of the
    packed ones, each matrix by itself."""
    pieces = {}
    for name, parameter in objective.named_parameters():
        if parameter.requires_grad:
            inside = "blocks." in name and parameter.ndim == 2
            count = 3 if inside and "qkv" in name else 1
            pieces[name] = (inside, parameter.detach().clone().chunk(count))
    matrices = [part for inside, parts in pieces.values() if inside for part in parts]
    vectors = [p for inside, (p, *_) in pieces.values() if not inside and p.ndim <= 1]
    others = [p for inside, (p, *_) in pieces.values() if not inside and p.ndim > 1]
    groups = [
        {"params": vectors, "weight_decay": 0.0},
        {"params": others, "weight_decay": DECAY},
    ]
    return pieces, [
        torch.optim.Muon(matrices, lr=LR, weight_decay=DECAY, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(groups, lr=LR, betas=(0.9, 0.95)),
    ]


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch.optim.Muon is of torch 2.9")
def test_steps_are_those_of_torchs_muon_and_adamw(make_batch, monkeypatch):
    """Both orthogonalise in fp32 here: the last bits of bf16 decide on small singular values."""
    monkeypatch.setattr("fastimae.engine.muon.resolve_precision", lambda *_: "fp32")
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda x: x.float().clone())
    objective = mae()
    pieces, theirs = by_torch(objective)
    optimizer = build_optimizer(objective, LR, DECAY, opt="muon")
    for number in range(3):
        objective(make_batch(4))["loss"].backward()
        for name, parameter in objective.named_parameters():
            if name in pieces and parameter.grad is not None:
                parts = pieces[name][1]
                for part, grad in zip(parts, parameter.grad.chunk(len(parts)), strict=True):
                    part.grad = grad.clone()
        before = {name: p.detach().clone() for name, p in objective.named_parameters()}
        optimizer.step()
        for each in theirs:
            each.step()
        for name, parameter in objective.named_parameters():
            if name in pieces:
                expected = torch.cat(pieces[name][1])
                size = (expected - before[name]).abs().max()
                error = (parameter - expected).abs().max()
                assert error <= 1e-4 * size + 1e-9, (number, name)
                for part, own in zip(
                    pieces[name][1], parameter.detach().chunk(len(pieces[name][1])), strict=True
                ):
                    part.copy_(own)
        optimizer.zero_grad()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_singular_values_become_one(precision, monkeypatch):
    monkeypatch.setattr("fastimae.engine.muon.resolve_precision", lambda *_: precision)
    for shape in ((3, 20, 40), (2, 40, 20), (1, 16, 16)):
        values = torch.linalg.svdvals(orthogonalised(torch.randn(shape)).float())
        assert values.min() > 0.5 and values.max() < 1.3, shape
    assert not orthogonalised(torch.zeros(1, 4, 4)).any()  # not NaN


def test_groups_are_the_matrices_of_blocks_and_the_rest():
    objective = mae(decoder_attention="cross")
    names = {parameter: name for name, parameter in objective.named_parameters()}
    vectors, others, *muon = build_optimizer(objective, LR, DECAY, opt="muon").param_groups
    packed = {group["matrices"]: {names[p] for p in group["params"]} for group in muon}
    assert packed[3] == {f"student.blocks.{i}.attn.qkv.weight" for i in range(2)}
    assert packed[2] and all(name.endswith(".kv.weight") for name in packed[2])
    assert "student.blocks.0.mlp.fc1.weight" in packed[1]
    assert "student.decoder_pred.weight" in {names[p] for p in others["params"]}
    assert all("blocks." not in names[p] for p in others["params"])
    assert [group["weight_decay"] for group in (vectors, *muon)] == [0.0, *[DECAY] * len(muon)]
    trained = [p for p in objective.parameters() if p.requires_grad]
    assert sum(len(group["params"]) for group in (vectors, others, *muon)) == len(trained)
    with pytest.raises(ValueError, match=r"--opt muon trains the matrices .* there are none"):
        list(muon_groups(nn.Linear(3, 3), DECAY))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_replay_is_the_step_and_needs_no_python(make_batch, precision):
    """With a rate on the device, which changes, and clipping, also of bf16 copies' gradients."""
    first = mae()
    steps = []
    for objective, kind in ((first, Step), (copy.deepcopy(first), GraphedStep)):
        optimizer = build_optimizer(objective, LR, DECAY, opt="muon", for_graph=True)
        settings = {"precision": precision, "device": CPU.device, "clip_grad": 0.1}
        steps.append(kind(objective, optimizer, **settings))
    recorded = steps[1]
    assert (recorded.copies is not None) == (precision == "bf16")
    recorded.record = lambda function: record_on_tape(recorded, function)
    recorded.prepare(make_batch(4))
    assert recorded.replays
    for number in range(3):
        batch = make_batch(4)
        losses = [step([copy.deepcopy(batch)], LR / (1 + number)) for step in steps]
        assert losses[0] == losses[1], number
    states = [step.objective.state_dict().values() for step in steps]
    assert all(map(torch.equal, *states))
    if recorded.copies:
        assert all(torch.equal(copy, p.bfloat16()) for p, copy in recorded.copies.of.items())


def test_a_resumed_optimizer_goes_on_with_the_same_bits(make_batch, tmp_path):
    first = mae()
    optimizer = build_optimizer(first, LR, DECAY, opt="muon")
    step = Step(first, optimizer, precision="fp32", device=CPU.device)
    step([make_batch(4)], LR)
    torch.save(optimizer_state(optimizer), tmp_path / "state.pth")
    second = copy.deepcopy(first)
    again = build_optimizer(second, LR, DECAY, opt="muon")
    load_optimizer(again, torch.load(tmp_path / "state.pth", weights_only=True))
    assert isinstance(again, MuonAdamW)
    batch = make_batch(4)
    for objective, made in ((first, optimizer), (second, again)):
        set_lr(made, LR)
        Step(objective, made, precision="fp32", device=CPU.device)([copy.deepcopy(batch)], LR)
    states = first.state_dict().values(), second.state_dict().values()
    assert all(map(torch.equal, *states))
    with pytest.raises(ValueError, match="of other parameters"):
        load_optimizer(build_optimizer(second, LR, DECAY), optimizer_state(optimizer))
