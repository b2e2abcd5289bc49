"""The attentive probe: its output, what only it can tell, resuming, and what it saves."""

import json
import os
import signal

import numpy as np
import pytest
import torch
from PIL import Image
from toy_images import save_mae

pytest.importorskip("timm")

from fastimae.cli import evaluate
from fastimae.engine.checkpoint import load_checkpoint
from fastimae.engine.checkpoint_file import CLASSES, Unfit
from fastimae.engine.resume import ATTENTIVE_PROBE, kind_of
from fastimae.evaluate.labels.attentive import attentive_probe
from fastimae.evaluate.labels.classification import Classification
from fastimae.evaluate.options.linear import LinearOptions
from fastimae.evaluate.tasks.linear import build_optimizer
from fastimae.interop.layouts import to_mae

PATCH, SIDE = 8, 32


def plain(probe, x_BTD, heads):
    """Compute the probe's definition in float64, head by head."""
    x = x_BTD.double()
    rows = x.reshape(-1, x.shape[-1])
    x = (x - rows.mean(0)) / (rows.var(0, correction=0) + 1e-6).sqrt()
    gathered = []
    weights = [each.double() for each in (probe[1].query, probe[1].key.weight)]
    value = probe[1].value.weight.double()
    width = x.shape[-1] // heads
    for first in range(0, x.shape[-1], width):
        rows = slice(first, first + width)
        scores = (x @ weights[1][rows].T) @ weights[0][rows] / width**0.5
        shares = scores.exp() / scores.exp().sum(1, keepdim=True)
        gathered.append((shares[..., None] * (x @ value[rows].T)).sum(1))
    return torch.cat(gathered, 1) @ probe[2].weight.double().T + probe[2].bias.double()


def test_its_output_is_that_of_its_definition():
    probe = attentive_probe(12, 3, 5, seed=0)
    x = torch.randn(4, 7, 12) * torch.logspace(-1, 1, 12) + 3
    with torch.no_grad():
        probe[1].query.mul_(50)  # attention that is far from even
        probe[2].bias.normal_()
        torch.testing.assert_close(probe(x).double(), plain(probe, x, 3), atol=1e-4, rtol=1e-4)
    names = {"0.running_mean", "0.running_var", "0.num_batches_tracked", "1.query"}
    names |= {"1.key.weight", "1.value.weight", "2.weight", "2.bias"}
    assert set(probe.state_dict()) == names and kind_of(names) == ATTENTIVE_PROBE
    with pytest.raises(Unfit, match="is a probe of features, without the encoder"):
        to_mae(probe.state_dict())


def test_weight_decay_is_of_matrices():
    options = LinearOptions(checkpoint="x", opt="adamw", weight_decay=0.3)
    probe = attentive_probe(12, 3, 5, seed=0)
    optimizer = build_optimizer(probe, options, 0.1)
    assert isinstance(optimizer, torch.optim.AdamW)
    matrices, vectors = optimizer.param_groups
    assert [p.shape[0] for p in matrices["params"]] == [12, 12, 5]
    assert matrices["weight_decay"] == 0.3 and vectors["weight_decay"] == 0


def save_brightest(root, count, seed):
    """Save noisy images of red and blue patches, of which one is bright: its colour is the class.

    The colours of the others are random, so that means tell little.
    """
    rng = np.random.default_rng(seed)
    grid = SIDE // PATCH
    for number in range(count):
        red = rng.integers(0, 2, grid**2)
        bright = np.arange(grid**2) == rng.integers(grid**2)
        red[bright] = number % 2
        colours = np.stack([90 + 60 * red, np.where(bright, 160, 60), 150 - 60 * red], axis=1)
        pixels = colours.reshape(grid, grid, 3).repeat(PATCH, 0).repeat(PATCH, 1)
        pixels = (pixels + rng.integers(-40, 40, pixels.shape)).astype(np.uint8)
        folder = root / ("blue", "red")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{number:03d}.png")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with data, and an encoder whose only block leaves patches as they are.

    Its positions are large, so that the last norm changes little.
    """
    root = tmp_path_factory.mktemp("brightest")
    save_mae(root / "mae.pth", depth=1, embed_dim=64, num_heads=4)
    content = torch.load(root / "mae.pth", weights_only=True)
    weights = content["model"]
    for name in ("attn.proj", "mlp.fc2"):
        weights[f"blocks.0.{name}.weight"].zero_()
    weights["pos_embed"] *= 8
    torch.save(content, root / "mae.pth")
    save_brightest(root / "data" / "train", 160, 0)
    save_brightest(root / "data" / "val", 80, 1)
    (root / "data" / "val" / "red" / "broken.png").write_bytes(b"broken")
    return root


def run(place, name, *flags, status=0):
    out = place / name
    command = ["linear", "--checkpoint", place / "mae.pth", "--data_path", place / "data"]
    command += ["--output_dir", out, "--device", "cpu", "--num_workers", 0, "--precision", "fp32"]
    command += ["--batch_size", 40, "--warmup_epochs", 1, *flags]
    assert evaluate(list(map(str, command))) == status
    path = out / "results.json"
    return json.loads(path.read_text()) if path.exists() else None


ATTENTIVE = ("--probe", "attentive", "--opt", "adamw", "--lr", "0.01")


def test_it_finds_the_patch_that_means_hide(place):
    results = run(place, "attentive", *ATTENTIVE, "--epochs", 12)
    numbers = results["numbers"]
    assert numbers["acc1"] > 95
    assert (numbers["train_images"], numbers["val_images"]) == (160, 80)
    assert numbers["bad_images"] == 1 and numbers["classes"] == 2
    assert not (place / "attentive" / "eval-features").exists()
    best = load_checkpoint(place / "attentive" / "checkpoint-best.pth")
    assert best["args"][CLASSES] == ["blue", "red"]
    assert best["args"]["probe"] == "attentive" and "1.query" in best["model"]
    for pool in ("cls", "avg"):
        flags = ["--pool", pool, "--lr", "0.1", "--epochs", 12]
        assert run(place, f"linear-{pool}", *flags)["numbers"]["acc1"] < 75


def test_a_stopped_run_goes_on_as_if_it_had_not_been(place, monkeypatch):
    flags = [*ATTENTIVE, "--epochs", 2, "--resume", "auto", "--crop", "random"]
    whole = run(place, "whole", *flags)
    with monkeypatch.context() as patch:
        real, calls = Classification.forward, []

        def stop(self, batch):
            calls.append(1)
            if len(calls) == 6:
                os.kill(os.getpid(), signal.SIGTERM)
            return real(self, batch)

        patch.setattr(Classification, "forward", stop)
        assert run(place, "stopped", *flags) is None
    for _ in range(2):  # the second time it is finished, and makes no pass over the test images
        assert run(place, "stopped", *flags)["numbers"] == whole["numbers"]


def test_a_run_keeps_its_heads(place, capsys):
    """The weights have the same shapes with any number of them."""
    flags = [*ATTENTIVE, "--resume", "auto", "--epochs"]
    run(place, "heads", *flags, 1)  # 4, as the encoder has
    run(place, "heads", *flags, 1, "--probe_heads", 4)
    run(place, "heads", *flags, 2, "--probe_heads", 2, status=2)
    said = capsys.readouterr().err.splitlines()[-1]
    assert "is a probe with --probe_heads 4, this run's has 2: give the same" in said


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--probe", "attentive", "--pool", "avg"], "--pool has no effect with --probe attentive"),
        (["--probe_heads", "2"], "--probe_heads has no effect without --probe attentive"),
        (
            ["--probe", "attentive", "--probe_heads", "5", "--batch_size", "40"],
            "--probe_heads 5 does not divide the encoder's width 64",
        ),
        (
            ["--probe", "attentive", "--resume", "{root}/linear.pth", "--batch_size", "40"],
            "is a linear probe, and this run trains an attentive probe",
        ),
    ],
)
def test_what_cannot_be_is_one_line(place, tmp_path, flags, said, capsys):
    torch.save({"model": {"0.running_mean": torch.zeros(2)}}, place / "linear.pth")
    command = ["linear", "--checkpoint", place / "mae.pth", "--data_path", place / "data"]
    command += ["--device", "cpu", "--output_dir", tmp_path / "x"]
    assert evaluate([str(each).format(root=place) for each in [*command, *flags]]) == 2
    assert said in capsys.readouterr().err.splitlines()[-1]
