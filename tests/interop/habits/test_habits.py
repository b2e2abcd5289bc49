"""Each habit of the field, accelerated: equal outputs, losses and gradients, and nothing left."""

import copy

import pytest
import torch

import fastimae
from benchmarks.habits import HABITS, TINY
from benchmarks.habits.twins import both, step
from fastimae import kernels


def twins(habit):
    """Build a model with random weights in all parts, and an equal one that is accelerated."""
    if habit.needs:
        pytest.importorskip(habit.needs)
    twin = habit.build(TINY)
    with torch.no_grad():
        for parameter in twin.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return twin, fastimae.accelerate(copy.deepcopy(twin), measure=False)


def assert_same(habit, twin, model, imgs):
    ours, theirs = both(habit, twin, model, imgs)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        atol = 1e-6 * max(1.0, value.abs().max().item())
        torch.testing.assert_close(
            ours[name], value, rtol=1e-4, atol=atol, msg=lambda text, name=name: f"{name}: {text}"
        )


def states(model):
    """Return the attributes of all modules by name, without those that torch keeps in dicts."""
    return {path: set(vars(module)) for path, module in model.named_modules()}


@pytest.mark.parametrize("name", HABITS)
def test_a_habit_gives_the_same_and_leaves_nothing(name):
    habit = HABITS[name]
    twin, model = twins(habit)
    imgs = torch.randn(3, habit.channels, TINY.img_size, TINY.img_size)
    step(habit, model, imgs)  # with the trials
    assert_same(habit, twin, model, imgs)
    report = model.fastimae_report
    assert report.swapped and all(report.left.values())
    for key, value in model.state_dict().items():
        assert torch.equal(value, twin.state_dict()[key]), key
    assert fastimae.restore(model) is model and states(model) == states(twin)
    torch.testing.assert_close(step(habit, model, imgs), step(habit, twin, imgs), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "swapped"),
    [
        ("Hugging Face ViTMAE", {"vit.embeddings", "vit.layers.0", "vit.layers.1", "decoder",
                                 "decoder.decoder_layers.0"}),
        ("Hugging Face Pixio, encoder", {"layers.0", "layers.1"}),
        ("timm ViT, class token", {f"blocks.{i}{part}" for i in (0, 1)
                                   for part in ("", ".attn", ".mlp")}),
        ("MAE, four class tokens", {
            *("random_masking", "forward_encoder", "forward_decoder", "forward_loss"),
            *(f"{block}{part}" for block in ("blocks.0", "blocks.1", "decoder_blocks.0")
              for part in ("", ".attn", ".mlp"))}),
    ],
)  # fmt: skip
def test_every_part_is_named(name, swapped):
    habit = HABITS[name]
    _, model = twins(habit)
    step(habit, model, torch.randn(2, 3, TINY.img_size, TINY.img_size))
    assert set(model.fastimae_report.swapped) == swapped
    assert not model.fastimae_report.left and not model.fastimae_report.waiting


@pytest.mark.parametrize("name", ["Hugging Face ViTMAE", "MAE on timm's blocks"])
def test_a_wrong_replacement_is_noticed(name, monkeypatch):
    habit, right = HABITS[name], kernels.attention
    twin, model = twins(habit)
    imgs = torch.randn(3, 3, TINY.img_size, TINY.img_size)
    step(habit, model, imgs)
    monkeypatch.setattr(kernels, "attention", lambda qkv, *rest: 1.01 * right(qkv, *rest))
    with pytest.raises(AssertionError, match=r"loss|output|gradient"):
        assert_same(habit, twin, model, imgs)


def test_a_wrong_replacement_is_left_out(monkeypatch):
    habit, right = HABITS["Hugging Face ViTMAE"], kernels.attention
    _, model = twins(habit)
    monkeypatch.setattr(kernels, "attention", lambda qkv, *rest: 1.01 * right(qkv, *rest))
    step(habit, model, torch.randn(3, 3, TINY.img_size, TINY.img_size))
    assert set(model.fastimae_report.swapped) == {"vit.embeddings", "decoder"}
    assert "differs in training" in model.fastimae_report.left["vit.layers.0"]
