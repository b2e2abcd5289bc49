"""Crops of fine-tuning: windows relative to the target size, or whole images."""

import json

import numpy as np
import pytest
from PIL import Image
from toy_images import save_splits, save_trained

from fastimae.cli import evaluate
from fastimae.settings import ConfigError
from fastimae.trained import training_settings

pytest.importorskip("timm")
from timm.data.transforms_factory import transforms_imagenet_train

from fastimae.evaluate.finetuning.transforms import training_transform
from fastimae.evaluate.options.finetune import FinetuneOptions
from fastimae.loaders.errors import DataError

SIZE = (16, 48)


def transform_of(size, **options):
    options = {"aa": "none", "reprob": 0, **options}
    return training_transform(
        FinetuneOptions(checkpoint="x", **options), size, (0, 0, 0), (1, 1, 1)
    )


def test_crops_of_fine_tuning_are_relative_to_the_target():
    square = transform_of((32, 32)).transforms[0]
    timms = transforms_imagenet_train(32).transforms[0]
    assert square.ratio == timms.ratio == (3 / 4, 4 / 3)
    assert transform_of((16, 48)).transforms[0].ratio == pytest.approx((9 / 4, 4))
    wide = transform_of((16, 48), crop_ratio=(0.5, 2)).transforms[0]
    assert wide.ratio == pytest.approx((1.5, 6)) and wide.size == (16, 48)


def test_fine_tuning_shows_whole_images_too():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    whole = np.asarray(image.resize(SIZE[::-1], Image.Resampling.BICUBIC)) / 255
    views = [transform_of(SIZE, crop="none")(image).permute(1, 2, 0).numpy() for _ in range(8)]
    for view in views:
        assert any(np.allclose(view, way, atol=1e-6) for way in (whole, whole[:, ::-1]))


@pytest.mark.parametrize(
    ("given", "trained", "crop", "ratio"),
    [
        ({}, {}, "random", (3 / 4, 4 / 3)),
        ({}, {"crop": "none", "crop_ratio": [0.75, 1.25]}, "none", (0.75, 1.25)),
        ({}, {"crop": "random", "crop_ratio": [0.5, 2.0]}, "random", (0.5, 2.0)),
        ({"crop": "random"}, {"crop": "none"}, "random", (3 / 4, 4 / 3)),
        ({"crop": "none"}, {"crop": "random"}, "none", (3 / 4, 4 / 3)),
        ({"crop_ratio": (1, 1)}, {"crop_ratio": [0.5, 2.0]}, "random", (1, 1)),
    ],
    ids=str,
)
def test_fine_tuning_crops_as_pre_training_did_unless_told(given, trained, crop, ratio):
    options = FinetuneOptions(checkpoint="x", **given)
    options.settle_crops(trained)
    assert (options.crop, options.crop_ratio) == (crop, ratio)


@pytest.mark.parametrize("given", [{"min_crop": 0.5}, {"crop_ratio": (1, 2)}], ids=str)
def test_a_crop_that_has_no_effect_is_an_error(given):
    for crop, trained in ((None, {"crop": "none"}), ("none", {})):
        with pytest.raises(ConfigError, match=r"--crop none.*add --crop random, or drop"):
            FinetuneOptions(checkpoint="x", crop=crop, **given).check_crops(trained)
    with pytest.raises(DataError, match="--crop_ratio 2 1 must satisfy 0 < LOW"):
        FinetuneOptions(checkpoint="x", crop_ratio=(2, 1)).check()


@pytest.mark.parametrize("given", [{"min_crop": 0.3}, {"crop_ratio": (1, 1)}], ids=str)
def test_the_error_names_what_can_be_changed(given):
    (name,), trained = given, {"crop": "none"}
    said = f"with which x was trained: add --crop random, or drop --{name} to use"
    with pytest.raises(ConfigError, match=said):
        FinetuneOptions(checkpoint="x", **given).check_crops(trained)
    for mend in ({"crop": "random"}, {"min_crop": 0.08, "crop_ratio": None}):
        FinetuneOptions(checkpoint="x", **given | mend).check_crops(trained)


def test_flips_can_be_turned_off():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8))
    for hflip in (True, False):
        transform = transform_of((8, 8), crop="none", hflip=hflip)
        views = [transform(image) for _ in range(16)]
        assert any(not views[0].equal(view) for view in views) == hflip


@pytest.mark.parametrize(("crop", "said"), [("random", True), ("none", False)])
def test_windows_that_do_not_fit_are_pointed_out(tmp_path, capsys, crop, said):
    data = tmp_path / "data"
    for name in ("train/a", "train/b", "val/a", "val/b"):
        (data / name).mkdir(parents=True)
        Image.new("RGB", (256, 16)).save(data / name / "x.png")
    flags = f"--checkpoint {save_trained(tmp_path / 'mae.pth')} --data_path {data} --device cpu"
    flags += " --num_workers 0 --batch_size 2 --epochs 1"
    assert evaluate(f"finetune {flags} --crop {crop}".split()) == 0
    assert ("100 % of the random windows do not fit" in capsys.readouterr().err) == said


def test_a_classifier_keeps_how_it_was_shown_images(tmp_path):
    """--eval of one that was trained on whole images shows whole ones."""
    data = save_splits(tmp_path / "data", 4)
    mae, out = save_trained(tmp_path / "mae.pth", crop="none"), tmp_path / "run"
    flags = f"--checkpoint {mae} --data_path {data} --device cpu --num_workers 0 --batch_size 6"
    flags += f" --precision fp32 --output_dir {out}"
    assert evaluate(f"finetune {flags} --epochs 1".split()) == 0
    kept = training_settings(out / "checkpoint-best.pth")
    assert kept["crop"] == "none" and kept["crop_ratio"] == [3 / 4, 4 / 3]
    save_trained(mae)  # whose settings have no crop
    assert evaluate(f"finetune {flags} --eval".split()) == 0
    settings = json.loads((out / "eval" / "results.json").read_text())["settings"]
    assert settings["crop"] == "none"
