"""Hugging Face's layers: older versions, and all that goes to the original methods."""

import copy
import functools

import pytest
import torch
from interop.habits.older_vitmae import OlderViTMAE

import fastimae
from benchmarks.habits import TINY, Habit
from benchmarks.habits.huggingface import pixio, pooled, pretrained, vit_mae
from benchmarks.habits.twins import both, step
from fastimae.foreign_models import huggingface

HABIT = Habit("ViTMAE", vit_mae, pretrained)
LAYERS = {"vit.layers.0", "vit.layers.1", "decoder.decoder_layers.0"}


@pytest.fixture
def imgs():
    return torch.randn(3, 3, TINY.img_size, TINY.img_size)


@pytest.fixture
def twins(imgs):
    """Make an untouched ViTMAE, and an equal one whose parts are all swapped."""
    pytest.importorskip("transformers")
    return made(imgs)


def made(imgs, **settings):
    twin = vit_mae(TINY, **settings)
    model = fastimae.accelerate(copy.deepcopy(twin), measure=False)
    step(HABIT, model, imgs)
    return twin, model


def assert_equal(twin, model, imgs, **arguments):
    """Check all outputs, and that as many random numbers were drawn."""
    outputs, states = [], []
    for each in (model, twin):
        torch.manual_seed(3)
        outputs.append(each(imgs, **arguments))
        states.append(torch.get_rng_state())
    ours, theirs = outputs
    assert torch.equal(*states) and ours.keys() == theirs.keys()
    assert torch.equal(ours.mask, theirs.mask) and torch.equal(ours.ids_restore, theirs.ids_restore)
    torch.testing.assert_close(ours.logits, theirs.logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.loss, theirs.loss, rtol=1e-5, atol=0)
    return ours, theirs


@pytest.fixture
def no_kernels(monkeypatch):
    """Make calls of our attention an error."""
    monkeypatch.setattr("fastimae.kernels.attention", None)


def test_the_layers_of_transformers_4_are_recognised_by_their_structure(imgs, monkeypatch):
    monkeypatch.setattr(huggingface, "LIBRARIES", (*huggingface.LIBRARIES, "interop"))
    twin = OlderViTMAE(TINY)
    model = fastimae.accelerate(copy.deepcopy(twin), measure=False)
    step(HABIT, model, imgs)
    assert {"embeddings", "layer.0", "layer.1", "decoder", "decoder.decoder_layers.0"} == set(
        model.fastimae_report.swapped
    )
    ours, theirs = both(HABIT, twin, model, imgs)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_speed_is_measured_without_the_layers(imgs, monkeypatch):
    monkeypatch.setattr(huggingface, "LIBRARIES", (*huggingface.LIBRARIES, "interop"))
    model = fastimae.accelerate(OlderViTMAE(TINY))
    step(HABIT, model, imgs)
    speeds = {row.part: row.speedup for row in model.fastimae_report.rows}
    assert speeds["decoder"] and speeds["embeddings"], model.fastimae_report


def test_layers_of_other_packages_are_left(imgs):
    model = fastimae.accelerate(OlderViTMAE(TINY), measure=False)
    assert model.fastimae_report.left["layer.0"] == "OlderLayer has a forward of its own"


def test_masks_and_given_noise_are_its_own(twins, imgs):
    assert_equal(*twins, imgs)
    noise = torch.rand(3, TINY.patches)
    ours, _ = assert_equal(*twins, imgs, noise=noise)
    assert torch.equal(ours.ids_restore, noise.argsort(1).argsort(1))


def test_only_visible_patches_are_embedded(twins, imgs):
    twins[1].vit.embeddings.patch_embeddings.forward = None  # a call would raise
    assert_equal(*twins, imgs)


def test_other_sizes_go_to_the_original(twins):
    ours, _ = assert_equal(*twins, torch.randn(2, 3, 64, 64), interpolate_pos_encoding=True)
    assert ours.logits.shape[1] == 64


@pytest.mark.parametrize("asked", ["output_hidden_states", "output_attentions"])
def test_requests_for_what_is_inside_go_to_the_original(asked, imgs):
    pytest.importorskip("transformers")
    twin, model = made(imgs, attention="eager")
    ours, theirs = assert_equal(twin, model, imgs, **{asked: True})
    key = asked.removeprefix("output_")
    assert len(ours[key]) == len(theirs[key]) >= TINY.depth
    for one, other in zip(ours[key], theirs[key], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_stochastic_depth_drops_the_same(imgs):
    pytest.importorskip("transformers")
    habit = Habit("Pixio", functools.partial(pixio, drop_path_rate=0.5), pooled)
    twin = habit.build(TINY)
    model = fastimae.accelerate(copy.deepcopy(twin), measure=False)
    step(habit, model, imgs)
    assert set(model.fastimae_report.swapped) == {"layers.0", "layers.1"}
    ours, theirs = both(habit, twin, model, imgs)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_gradient_checkpointing_goes_to_the_original(twins, imgs, no_kernels):
    twin, model = twins
    model.gradient_checkpointing_enable()
    assert_equal(twin, model, imgs)


def test_a_hook_on_attention_is_still_called(twins, imgs, no_kernels):
    twin, model = twins
    called = []
    for layer in (*model.vit.layers, *model.decoder.decoder_layers):
        layer.attention.register_forward_hook(lambda *_: called.append(1))
    assert_equal(twin, model, imgs)
    assert len(called) == 3


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"attention_probs_dropout_prob": 0.1}, "differs in training: ViTMAEAttention"),
        ({"hidden_dropout_prob": 0.1}, "differs in training: Dropout(p=0.1"),
        ({"hidden_act": "gelu_new"}, "its activation is NewGELUActivation"),
        ({"attention": "flex_attention"}, "its attention is flex_attention"),
    ],
)
def test_other_layers_are_left(settings, why):
    pytest.importorskip("transformers")
    model = fastimae.accelerate(vit_mae(TINY, **settings), measure=False)
    assert {path for path, left in model.fastimae_report.left.items() if why in left} == LAYERS
