"""Finding a model's weights in the layouts that public code writes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fastimae.engine.find_weights import Location, find_weights
from fastimae.interop import load_model
from fastimae.models import create_model


def model(seed=0):
    torch.manual_seed(seed)
    return create_model("mae_vit_nano_patch8", img_size=32, depth=1)


def prefixed(prefix, weights):
    return {prefix + name: value for name, value in weights.items()}


def averaged():
    """Return an average as torch itself writes it."""
    return dict(torch.optim.swa_utils.AveragedModel(model()).state_dict())


def compiled():
    return dict(torch.compile(model()).state_dict())


def beside(prefix):
    """Return a wrapped encoder's weights, with MAE's decoder outside the prefix."""
    parts = model().state_dict().items()
    return {(k if k.startswith(("decoder_", "mask_token")) else prefix + k): v for k, v in parts}


WEIGHTS, OTHER = model().state_dict(), model(1).state_dict()
NOTHING = torch.zeros(1)
NOISE = {"optimizer": {"state": {0: {"step": torch.tensor(1.0)}}}, "epoch": 3, "rng": {"cpu": None}}
LAYOUTS = {
    "bare": (WEIGHTS, "", ""),
    "MAE": ({"model": WEIGHTS, **NOISE}, "model", ""),
    "timm": ({"state_dict": WEIGHTS, "state_dict_ema": OTHER, "arch": "vit"}, "state_dict", ""),
    "timm, average first": ({"state_dict_ema": OTHER, "state_dict": WEIGHTS}, "state_dict", ""),
    "DeiT": ({"model": WEIGHTS, "model_ema": OTHER}, "model", ""),
    "an average alone": ({"model_ema": WEIGHTS, "epoch": 3}, "model_ema", ""),
    "Lightning": ({"state_dict": prefixed("model.", WEIGHTS) | {"loss.w": torch.ones(1)}},
                  "state_dict", "model."),
    "Lightning with EMA": (
        {"state_dict": prefixed("net.", WEIGHTS) | prefixed("ema_model.module.", OTHER)},
        "state_dict", "net.",
    ),
    "EMA beside bare names": ({"model": prefixed("ema.", OTHER) | WEIGHTS}, "model", ""),
    "DDP": ({"model": prefixed("module.", WEIGHTS)}, "model", "module."),
    "compiled DDP": (prefixed("module._orig_mod.", WEIGHTS), "", "module._orig_mod."),
    "compiled": (compiled(), "", "_orig_mod."),
    "AveragedModel": (averaged(), "", "module."),
    "backbone": (prefixed("module.backbone.", WEIGHTS), "", "module.backbone."),
    "DINO": ({"teacher": prefixed("backbone.", OTHER), "student": prefixed("module.backbone.",
             WEIGHTS)}, "student", "module.backbone."),
    "MoCo": ({"state_dict": prefixed("module.momentum_encoder.", OTHER)
             | prefixed("module.base_encoder.", WEIGHTS)}, "state_dict", "module.base_encoder."),
    "encoder within": (beside("encoder."), "", "encoder."),
    "encoder within a wrapper": (prefixed("model.", beside("encoder.")), "", "model.encoder."),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_trained_weights_are_taken(name):
    content, entry, prefix = LAYOUTS[name]
    taken = find_weights(content)
    assert (taken.location.entry, taken.location.prefix) == (entry, prefix)
    assert taken.weights.keys() == WEIGHTS.keys()
    assert all(torch.equal(value, WEIGHTS[key]) for key, value in taken.weights.items())


@pytest.mark.parametrize("name", [n for n, (c, *_) in LAYOUTS.items() if find_weights(c).others])
def test_the_average_is_named_and_can_be_taken(name):
    content, *_ = LAYOUTS[name]
    (other,) = find_weights(content).others
    assert other.averaged
    weights = find_weights(content, averaged=True).weights
    assert weights.keys() == OTHER.keys()
    assert all(torch.equal(value, OTHER[key]) for key, value in weights.items())


@given(
    words=st.lists(
        st.sampled_from(["module", "_orig_mod", "model", "net_2", "encoder"]), max_size=4
    ),
    beside=st.sets(st.sampled_from(["head.weight", "loss.weight", "modules.bias"]), max_size=3),
    order=st.randoms(use_true_random=False),
)
def test_any_wrappers_in_any_order(words, beside, order):
    prefix = "".join(f"{word}." for word in words)
    items = [*prefixed(prefix, WEIGHTS).items(), *((f"other.{key}", NOTHING) for key in beside)]
    order.shuffle(items)
    taken = find_weights({"state_dict": dict(items)})
    strangers = {f"other.{key}" for key in beside}
    if prefix:
        assert taken.weights.keys() == WEIGHTS.keys() and set(taken.left_out) == strangers
    else:  # nothing distinguishes these from the model's weights: loading them reports them
        assert taken.weights.keys() == WEIGHTS.keys() | strangers
    assert all(taken.weights[key] is value for key, value in WEIGHTS.items())


def test_what_is_no_weight_is_left_out_and_named():
    assert find_weights(averaged()).left_out == ("n_averaged",)
    content = {"state_dict": prefixed("model.", WEIGHTS) | {"loss.w": torch.ones(1)}}
    assert find_weights(content).left_out == ("loss.w",)
    assert find_weights({"model": WEIGHTS | {"note": "text"}}).weights.keys() == WEIGHTS.keys()


def test_weights_of_other_models_lose_wrappers_only():
    weights = {"module.0.running_mean": torch.ones(2), "module.0.steps": torch.tensor(3)}
    assert set(find_weights({"model": weights}).weights) == {"0.running_mean", "0.steps"}
    assert not find_weights({"model": weights}).remarkable


def test_without_weights_or_without_an_average():
    for content in ({}, {"epoch": 3}, {"model": {}}, {"model": {"a": 1}}):
        with pytest.raises(ValueError, match="holds no model weights"):
            find_weights(content)
    with pytest.raises(ValueError, match="no averaged weights"):
        find_weights({"model": WEIGHTS}, averaged=True)


@pytest.mark.parametrize(
    ("entry", "prefix", "averaged"),
    [("model", "", False), ("model_ema", "", True), ("model", "ema.module.", True),
     ("teacher", "backbone.", True), ("schema", "remarkable.", False)],
)  # fmt: skip
def test_averages_are_recognised_by_whole_words(entry, prefix, averaged):
    assert Location(entry, prefix).averaged is averaged


def test_a_line_names_the_weights_in_use(tmp_path, caplog, heard):
    path = tmp_path / "timm.pth"
    torch.save({"state_dict": prefixed("module.", WEIGHTS), "state_dict_ema": OTHER}, path)
    loaded = load_model(path)
    assert torch.equal(loaded.norm.weight, WEIGHTS["norm.weight"])
    assert "timm.pth: using state_dict, names after module.; also in" in caplog.text
    assert "an average, which use_ema=True uses" in caplog.text
    loaded = load_model(path, use_ema=True)
    assert torch.equal(loaded.blocks[0].mlp.fc1.weight, OTHER["blocks.0.mlp.fc1.weight"])
    caplog.clear()
    torch.save({"model": WEIGHTS, **NOISE}, path)
    load_model(path)
    assert "using" not in caplog.text


def test_a_wrapped_classifier_is_read(tmp_path):
    """As in Lightning modules: what is outside the prefix is not part of the model."""
    timm = pytest.importorskip("timm")
    vit = timm.models.VisionTransformer(img_size=32, patch_size=8, embed_dim=128, depth=1,
                                        num_heads=4, num_classes=3)  # fmt: skip
    weights = prefixed("model.", vit.state_dict()) | nn.Linear(2, 2).state_dict(prefix="probe.")
    torch.save({"state_dict": weights}, tmp_path / "last.ckpt")
    loaded = load_model(tmp_path / "last.ckpt", encoder_only=True)
    assert torch.equal(loaded.blocks[0].attn.qkv.weight, vit.blocks[0].attn.qkv.weight)
