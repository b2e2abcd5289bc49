"""Features and probes of any layer: which block they are of, and how they are kept apart."""

import json
from pathlib import Path

import pytest
import torch
from toy_images import save_mae, save_splits
from undrawn import undrawn

from fastimae.cli import evaluate
from fastimae.engine.checkpoint import load_checkpoint
from fastimae.engine.checkpoint_file import PROBED, CheckpointError
from fastimae.evaluate.features import features, latents, resolve_layer
from fastimae.evaluate.pages.tables import format_value
from fastimae.evaluate.training.checks import check_same_run
from fastimae.models import create_model
from fastimae.models.vit import Block
from fastimae.settings import ConfigError


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with data, and an encoder whose last block adds so much that all images are alike.

    That is, numbers of which float32 has lost what the blocks before had found.
    """
    root = tmp_path_factory.mktemp("layers")
    save_mae(root / "mae.pth", depth=3)
    content = torch.load(root / "mae.pth", weights_only=True)
    bias = content["model"]["blocks.2.mlp.fc2.bias"]
    bias.copy_(torch.linspace(1e10, 3e10, len(bias)))
    torch.save(content, root / "mae.pth")
    save_splits(root / "data", 10)
    return root


def run(place, task, *flags):
    out = place / f"{task}{''.join(flags)}"
    command = [task, "--checkpoint", place / "mae.pth", "--data_path", place / "data", *flags]
    command += ["--output_dir", out, "--device", "cpu", "--num_workers", 0]
    if task != "tsne":
        command += ["--feature_dir", place / "kept", "--precision", "fp32"]
    assert evaluate(list(map(str, command))) == 0
    return json.loads((out / "results.json").read_text())["numbers"]


def test_a_probe_reads_what_its_layer_has(place):
    assert run(place, "knn", "--k", "1")["acc1"] == pytest.approx(100 / 3)
    for layer in ("1", "-2"):
        assert run(place, "knn", "--k", "1", "--layer", layer)["acc1"] == 100
    assert run(place, "fewshot", "--shots", "3", "--layer", "0")["acc1"] > 90
    linear = ("--epochs", "3", "--batch_size", "10", "--lr", "1", "--warmup_epochs", "0")
    assert run(place, "linear", *linear, "--layer", "1")["acc1"] == 100
    names = [path.name for path in Path(place / "kept").glob("*.safetensors")]
    layers = sorted(name.split("-")[3] for name in names)
    assert layers == ["cls", "cls", "layer0", "layer0", "layer1", "layer1"]
    (last,) = place.glob("linear*/checkpoint-last.pth")
    content = load_checkpoint(last)
    check_same_run(last, content, {**content["args"], "layer": -2})  # the same
    probed = content["args"][PROBED]
    assert probed["layer"] == 1 and probed["input_size"] == [32, 32]
    for name, other in {
        "layer": 2, "pool": "avg", "num_heads": 1, "input_size": [48, 48], "mean": [0.5] * 3
    }.items():  # fmt: skip
        words = rf"is a probe with --{name} .*, this run's has {format_value(other)}: give the same"
        with pytest.raises(CheckpointError, match=words):
            check_same_run(last, content, {**content["args"], PROBED: {**probed, name: other}})
    check_same_run(last, {"args": {**content["args"], PROBED: "cls"}}, content["args"])


@undrawn()
def test_tsne_draws_a_layer(place):
    pytest.importorskip("sklearn")
    flags = ["--samples", "20", "--perplexity", "3"]
    assert run(place, "tsne", *flags, "--layer", "1")["silhouette_features"] > 0.1


@pytest.mark.parametrize("pool", ["cls", "avg"])
def test_a_layer_is_that_of_forward_features(pool):
    model = create_model("mae_vit_nano_patch8", img_size=32, depth=3).eval()
    images = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8)
    with torch.no_grad():
        (expected,) = model.forward_features(images, layers=[1])
        vector = {"cls": expected[:, 0], "avg": expected[:, 1:].mean(1)}[pool]
    assert torch.equal(latents(model, images, "fp32", 1), expected)
    assert torch.equal(features(model, images, pool, "fp32", -2), vector)
    assert not torch.allclose(features(model, images, pool, "fp32"), vector, atol=0.1)


def test_blocks_behind_are_not_computed(monkeypatch):
    model = create_model("mae_vit_nano_patch8", img_size=32, depth=3).eval()
    real, calls = Block.forward, []
    monkeypatch.setattr(
        Block, "forward", lambda self, *rest, **more: calls.append(1) or real(self, *rest, **more)
    )
    features(model, torch.zeros(1, 32, 32, 3, dtype=torch.uint8), "cls", "fp32", 0)
    assert len(calls) == 1


def test_the_mean_that_a_model_was_tuned_on_is_normalised_in_each_layer():
    model = create_model("mae_vit_nano_patch8", img_size=32, depth=3).eval()
    model.fc_norm, model.norm = model.norm, torch.nn.Identity()
    images = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8)
    with torch.no_grad():
        tokens = latents(model, images, "fp32", 0)
        expected = torch.nn.functional.layer_norm(tokens[:, 1:].mean(1), [128], eps=1e-6)
    torch.testing.assert_close(features(model, images, None, "fp32", 0), expected)


def test_a_block_that_there_is_not():
    model = create_model("mae_vit_nano_patch8", img_size=32, depth=3)
    assert [resolve_layer(model, layer) for layer in (None, -1, 2, 0, -3)] == [2, 2, 2, 0, 0]
    for layer in (3, -4):
        with pytest.raises(ConfigError, match=f"--layer {layer}: the encoder has 3 blocks, 0 to 2"):
            resolve_layer(model, layer)
