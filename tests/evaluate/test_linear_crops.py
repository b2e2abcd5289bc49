"""The linear probe on random crops: its features, resuming, workers, and flags without effect."""

import dataclasses
import json
import os
import signal

import numpy as np
import pytest
import torch
from PIL import Image
from ranks_in_threads import in_two_ranks
from toy_images import save_colours, save_mae, save_splits, save_trained

from fastimae.cli import evaluate
from fastimae.engine.checkpoint import load_checkpoint
from fastimae.engine.distributed import World

pytest.importorskip("timm")

from fastimae.evaluate.labels.cropped_features import crop_transform
from fastimae.evaluate.labels.probe import open_probe, probe_data
from fastimae.evaluate.options.linear import LinearOptions, mae
from fastimae.evaluate.tasks import linear

WORLD = World(0, 1, torch.device("cpu"))
BASE = ["--device", "cpu", "--precision", "fp32", "--warmup_epochs", "0", "--lr", "0.1"]


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A folder with a checkpoint, mae.pth, and data of three classes in 48 pixels."""
    root = tmp_path_factory.mktemp("toy")
    save_mae(root / "mae.pth", depth=2)
    save_colours(root / "data" / "train", 8, size=48)
    save_colours(root / "data" / "val", 4, size=48, seed=1)
    return root


def options_for(root, data, **changes):
    settings = {"batch_size": 6, "num_workers": 0, "precision": "fp32", "seed": 3, **changes}
    return LinearOptions(
        checkpoint=root / "mae.pth", data_path=data, output_dir=root / "out", device="cpu",
        crop="random", **settings,
    )  # fmt: skip


def loader_of(root, data, *, of_store=None, **changes):
    options = options_for(root, data, **changes)
    store, images, _ = open_probe(options, WORLD, root, lambda origin: None)
    store = dataclasses.replace(store, **(of_store or {}))
    crops = options.crops(store.model.img_size, store.model.in_chans)
    return linear.CroppedFeatures(store, images, crops, **linear.loader_settings(options))


def by_index(batches):
    """Return the features of each image, in the order of images."""
    batches = list(batches)
    order = torch.cat([batch.index for batch in batches]).argsort()
    return torch.cat([batch.inputs for batch in batches])[order]


def test_crops_of_whole_images_have_the_features_of_the_cache(tmp_path):
    save_mae(tmp_path / "mae.pth", depth=2)
    data = save_splits(tmp_path / "data", 8)  # in 32 pixels, the model's size
    whole = {"min_crop": 1.0, "hflip": False}
    cached = probe_data(options_for(tmp_path, data), WORLD, tmp_path).train
    found = by_index(loader_of(tmp_path, data, **whole))
    torch.testing.assert_close(found, cached.rows, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(by_index(loader_of(tmp_path, data)), cached.rows, atol=1e-2)


def test_features_are_a_function_of_seed_and_epoch(toy):
    shown = {}
    for workers in (0, 2):
        loader = loader_of(toy, toy / "data", num_workers=workers)
        for epoch in (0, 1):
            loader.set_epoch(epoch)
            shown[workers, epoch] = by_index(loader)
    assert all(torch.equal(shown[0, epoch], shown[2, epoch]) for epoch in (0, 1))
    assert not torch.allclose(shown[0, 0], shown[0, 1], atol=1e-2)
    other = by_index(loader_of(toy, toy / "data", seed=4))
    assert not torch.allclose(shown[0, 0], other, atol=1e-2)


def test_ranks_share_the_crops_of_one(toy):
    (one, *_) = loader_of(toy, toy / "data", batch_size=12)
    for rank in (0, 1):
        (part, *_) = loader_of(toy, toy / "data", of_store={"world": World(rank, 2, WORLD.device)})
        torch.testing.assert_close(part.inputs, one.inputs[6 * rank : 6 * rank + 6])
        assert torch.equal(part.targets, one.targets[6 * rank : 6 * rank + 6])


def test_a_large_batch_is_computed_in_parts(toy):
    whole = by_index(loader_of(toy, toy / "data", batch_size=12))
    parts = by_index(loader_of(toy, toy / "data", batch_size=12, of_store={"batch_size": 5}))
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-5)


def test_windows_are_as_large_as_asked_and_half_are_mirrored():
    """An image of columns 0..63: the view says which of them the window had."""
    size = (32, 32)
    image = Image.fromarray(np.tile(np.arange(64, dtype=np.uint8) * 4, (64, 1)))
    options = LinearOptions(checkpoint="x", crop="random", min_crop=0.25, crop_ratio=(1, 1))
    transform = crop_transform(options.crops(size, 1))
    torch.manual_seed(0)
    widths, mirrored = [], 0
    for _ in range(400):
        row = transform(image)[0, 0].double()
        assert transform(image).shape == (1, *size) and transform(image).dtype == torch.uint8
        mirrored += bool(row[0] > row[-1])
        widths.append(abs(row[-1] - row[0]) / 4 * 32 / 31)
    areas = (np.array(widths) / 64) ** 2
    assert areas.min() > 0.2 and areas.max() <= 1.01
    assert areas.mean() == pytest.approx(0.625, abs=0.05)  # uniform in 0.25..1
    assert 160 < mirrored < 240


def run(root, name, *flags):
    out = root / name
    command = ["linear", "--checkpoint", root / "mae.pth", "--data_path", root / "data", *BASE]
    command += ["--output_dir", out, *flags]
    command += [] if "--crop" in flags else ["--crop", "random"]
    if "--num_workers" not in flags:
        command += ["--num_workers", 0]
    assert evaluate(list(map(str, command))) == 0
    return out, json.loads((out / "results.json").read_text()) if "stop" not in name else None


def test_it_learns_and_is_tested_on_centres(toy):
    flags = ["--batch_size", 12, "--epochs", 12, "--min_crop", 0.5]
    out, results = run(toy, "learns", *flags)
    numbers = results["numbers"]
    assert numbers["acc1"] == 100 and numbers["classes"] == 3 and numbers["bad_images"] == 0
    assert (numbers["train_images"], numbers["val_images"]) == (24, 12)
    assert results["settings"]["train_crop"] == "random"
    kept = [path.name for path in (out / "eval-features").glob("*.safetensors")]
    assert len(kept) == 1  # of the test images
    assert load_checkpoint(out / "checkpoint-best.pth")["model"].keys() >= {"1.weight", "1.bias"}


def test_a_stopped_run_goes_on_as_if_it_had_not_been(toy, monkeypatch):
    flags = ["--batch_size", 6, "--epochs", 3, "--resume", "auto"]
    whole, expected = run(toy, "whole", *flags)
    with monkeypatch.context() as patch:
        real, calls = linear.Classification.forward, []

        def stop(self, batch):
            calls.append(1)
            if len(calls) == 6:  # in the second epoch of four steps
                os.kill(os.getpid(), signal.SIGTERM)
            return real(self, batch)

        patch.setattr(linear.Classification, "forward", stop)
        stopped, _ = run(toy, "stopped", *flags)
        assert len(calls) == 6 and not (stopped / "results.json").exists()
    run(toy, "stopped", *flags)
    assert json.loads((stopped / "results.json").read_text())["numbers"] == expected["numbers"]
    a, b = (load_checkpoint(path / "checkpoint-last.pth")["model"] for path in (whole, stopped))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_broken_image_is_replaced_and_counted(toy, tmp_path):
    data = save_splits(tmp_path / "data", 4)
    (data / "train" / "b_green" / "001.png").write_bytes(b"no image")
    save_mae(tmp_path / "mae.pth", depth=1)
    _, results = run(tmp_path, "broken", "--batch_size", 6, "--epochs", 1)
    assert results["numbers"]["bad_images"] == 1 and results["numbers"]["train_images"] == 12


def test_broken_images_of_all_ranks_are_counted_once(tmp_path):
    data = save_splits(tmp_path / "data", 4)
    (data / "train" / "b_green" / "001.png").write_bytes(b"no image")
    save_mae(tmp_path / "mae.pth", depth=1)

    def count(world, epochs):
        loader = loader_of(tmp_path, data, batch_size=3, of_store={"world": world})
        for epoch in range(epochs):
            loader.set_epoch(epoch)
            list(loader)
        return len(loader.bad), loader.bad_of_all()

    (first, all_of_first), (second, all_of_second) = in_two_ranks(lambda world: count(world, 1))
    assert first + second == all_of_first == all_of_second == 1
    both = in_two_ranks(lambda world: count(world, 6))
    assert both == [(1, 1), (1, 1)]  # each has met it


@pytest.mark.parametrize("flag", ["--min_crop 0.5", "--crop_ratio 1 1", "--no_hflip"])
def test_flags_of_random_crops_need_them(toy, capsys, flag):
    command = ["linear", "--checkpoint", str(toy / "mae.pth"), "--data_path", str(toy / "data")]
    assert evaluate([*command, *flag.split()]) == 2
    name = flag.split()[0].replace("no_", "")
    assert f"{name} has no effect without --crop random: drop it" in capsys.readouterr().err


def test_windows_have_the_shape_of_pre_training_unless_told():
    trained = {"crop_ratio": [0.5, 2.0]}
    for given, ratio in (({}, (0.5, 2.0)), ({"crop_ratio": (1.0, 1.0)}, (1.0, 1.0))):
        options = LinearOptions(checkpoint="x", crop="random", **given)
        options.settle_crops(trained)
        assert options.crops((32, 64), 3).ratio == ratio
        assert options.crops((32, 64), 3).bounds == (2 * ratio[0], 2 * ratio[1])
    plain = LinearOptions(checkpoint="x")
    plain.settle_crops(trained)
    assert plain.crop_ratio is None


def test_images_are_tested_on_as_the_model_was_trained(tmp_path):
    """Results say how images were cropped for training, and how for the test."""
    save_trained(tmp_path / "mae.pth", crop="none")
    save_splits(tmp_path / "data", 4)
    assert options_for(tmp_path, tmp_path / "data").val_images().whole
    for crop in ("random", "center"):
        _, results = run(tmp_path, crop, "--batch_size", 6, "--epochs", 1, "--crop", crop)
        found = {name: results["settings"][name] for name in ("crop", "train_crop")}
        assert found == {"crop": "none", "train_crop": crop}


def test_maes_recipe_crops_and_has_its_batch_on_one_gpu():
    options = LinearOptions(checkpoint="x", **mae())
    assert options.crop == "random" and options.min_crop == 0.08 and options.hflip
    assert options.effective_batch(WORLD) == 16384
    assert options.peak_lr(WORLD) == pytest.approx(6.4)


def test_windows_that_do_not_fit_are_pointed_out(tmp_path, capsys):
    for name in ("train/a", "train/b", "val/a", "val/b"):
        (tmp_path / "data" / name).mkdir(parents=True)
        Image.new("RGB", (256, 16)).save(tmp_path / "data" / name / "x.png")
    save_mae(tmp_path / "mae.pth", depth=1)
    run(tmp_path, "wide", "--batch_size", 2, "--epochs", 1)
    said = capsys.readouterr().err
    assert "100 % of the random windows do not fit" in said
    assert "--crop none" not in said and "--crop center takes the middle of all images" in said
