"""Evaluation decodes and crops images as the training of its checkpoint did."""

import json
import logging
from pathlib import Path

import deep_images
import numpy as np
import pytest
import torch
from PIL import Image
from toy_images import save_colours, save_splits, save_trained

from fastimae.cli import evaluate, export, train
from fastimae.engine.distributed import World
from fastimae.evaluate.center_batches import CenterBatches, center_view
from fastimae.evaluate.features import load_encoder
from fastimae.evaluate.images import open_images
from fastimae.evaluate.labels.feature_cache import FeatureStore
from fastimae.evaluate.options.base import EvalOptions
from fastimae.loaders import create_loader
from fastimae.loaders.convert.run import ConvertOptions, convert
from fastimae.loaders.errors import DataError
from fastimae.loaders.images.crops import RATIO
from fastimae.loaders.images.limits import limited_to, value_range
from fastimae.trained import training_settings

pytest.importorskip("timm")
from fastimae.evaluate.finetuning.augmented_loader import AugmentedLoader
from fastimae.evaluate.options.finetune import FinetuneOptions

CPU = torch.device("cpu")
SIZE = (16, 48)


@pytest.fixture(autouse=True)
def _own_limits():
    with limited_to(None):
        yield


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    for number, (height, width) in enumerate([(20, 50), (60, 33), (16, 48)]):
        (tmp_path / "photos" / "c").mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / "c" / f"{number}.png")
    return tmp_path / "photos"


@pytest.fixture
def told(caplog, monkeypatch):
    """The lines logged so far, as one text."""
    caplog.set_level(logging.INFO, "fastimae")
    monkeypatch.setattr(logging.getLogger("fastimae"), "propagate", True)
    return lambda: "\n".join(caplog.messages)


@pytest.mark.parametrize("channels", [3, 1])
def test_whole_views_are_what_training_with_crop_none_shows(tmp_path, photos, channels):
    mae = save_trained(tmp_path / "mae.pth", crop="none")
    images = EvalOptions(checkpoint=mae, data_path=photos).train_images()
    ((views, _),) = CenterBatches(images, SIZE, batch_size=3, workers=0, channels=channels)
    settings = {"batch_size": 3, "mix_group": 0, "num_workers": 0, "in_chans": channels}
    with create_loader(
        data_path=photos, input_size=SIZE, crop="none", hflip=False, **settings
    ) as loader:
        (batch,) = loader
    assert torch.equal(views[batch.index], batch.images)


def test_without_it_the_middle_is_shown(tmp_path, photos):
    for name, args in (("a", {}), ("b", {"crop": "random"})):
        mae = save_trained(tmp_path / f"{name}.pth", **args)
        images = EvalOptions(checkpoint=mae, data_path=photos).train_images()
        ((views, _),) = CenterBatches(images, SIZE, batch_size=3, workers=0)
        for index, view in enumerate(views):
            assert np.array_equal(view, center_view(images[index][0], SIZE))
    assert not np.array_equal(views[1], center_view(images[1][0], SIZE, whole=True))


def test_features_of_whole_views_are_kept_apart(tmp_path, photos):
    mae = save_trained(tmp_path / "mae.pth")
    world = World(0, 1, CPU)
    store = FeatureStore(
        model=load_encoder(mae, CPU), folder=tmp_path / "features", scratch=tmp_path, world=world,
        pool="avg", precision="fp32", batch_size=3, workers=0,
    )  # fmt: skip
    images = open_images(photos)
    middle = store.features(images).rows
    images.whole = True
    assert not torch.allclose(store.features(images).rows, middle)
    images.whole = False
    assert torch.equal(store.features(images).rows, middle)


@pytest.fixture
def deep(tmp_path):
    """Floating-point images, which have no range of their own."""
    (tmp_path / "deep").mkdir()
    for number in range(2):
        data = deep_images.file_bytes(deep_images.FLOATS * (number + 1), "TIFF")
        (tmp_path / "deep" / f"{number}.tif").write_bytes(data)
    return tmp_path / "deep"


def test_the_range_of_training_holds_unless_another_is_given(tmp_path, deep, told):
    mae = save_trained(tmp_path / "mae.pth", value_range=[0.0, 1.0])
    options = EvalOptions(checkpoint=mae, data_path=deep)
    images = options.train_images()
    expected = np.rint(255.0 * deep_images.FLOATS)
    assert np.array_equal(np.asarray(images[0][0])[..., 0], expected)
    assert options.value_range == (0.0, 1.0), "not in results.json"
    assert "trained" not in told()
    assert "mapped by --value_range 0 1: 2" in told()
    others = EvalOptions(checkpoint=mae, data_path=deep, value_range=(0, 2)).train_images()
    assert np.array_equal(np.asarray(others[1][0])[..., 0], expected)
    assert f"{mae} was trained with --value_range 0 1, not with --value_range 0 2" in told()
    assert others.fingerprint != images.fingerprint, "features of others would be used again"


@pytest.mark.parametrize(
    ("args", "warns"),
    [
        ({}, False),
        ({"value_range": None}, False),
        ({"value_range": None, "data_path": "x"}, True),
        ({"value_range": None, "dali": "x"}, True),
        ({"value_range": [0.0, 2.0]}, False),
        ({"value_range": None, "ffcv": "x.beton"}, False),
        ({"value_range": None, "dali": "x.beton"}, False),
    ],
    ids=["foreign", "exported", "data_path", "files", "same", "ffcv", "dali"],
)
def test_a_warning_comes_where_the_two_are_known_to_differ(tmp_path, deep, told, args, warns):
    """A .beton may have been converted with any range."""
    mae = save_trained(tmp_path / "mae.pth", **args)
    EvalOptions(checkpoint=mae, data_path=deep, value_range=(0, 2)).train_images()
    assert ("was trained without --value_range" in told()) == warns


def test_the_range_of_a_beton_is_what_it_was_converted_with(tmp_path, deep, told):
    beton = tmp_path / "deep.beton"
    convert(ConvertOptions(src=str(deep), out=beton, workers=1, value_range=(0, 1)))
    for flag in ("ffcv", "dali"):
        mae = save_trained(tmp_path / "mae.pth", value_range=None, **{flag: str(beton)})
        options = EvalOptions(checkpoint=mae, data_path=deep)
        shown = np.asarray(options.train_images()[0][0])[..., 0]
        assert np.array_equal(shown, np.rint(255.0 * deep_images.FLOATS))
    EvalOptions(checkpoint=mae, data_path=deep, value_range=(0, 2)).train_images()
    assert "trained with --value_range 0 1, not with --value_range 0 2" in told()


def test_the_range_of_a_beton_stays_known_when_the_file_is_gone(tmp_path, deep, monkeypatch):
    """Also to a run that resumes it in another folder."""
    monkeypatch.chdir(tmp_path)
    options = {"src": str(deep), "workers": 1, "value_range": (0, 1)}
    convert(ConvertOptions(out=Path("deep.beton"), **options))
    run = ["--ffcv", "deep.beton", "--model", "mae_vit_nano_patch16", "--input_size", "32"]
    run += ["--batch_size", "1", "--num_workers", "1", "--device", "cpu", "--output_dir", "run"]
    run += ["--warmup_epochs", "0"]
    assert train([*run, "--epochs", "1"]) == 0
    Path("deep.beton.json").unlink()
    for epochs in (1, 2):
        mae = Path("run/checkpoint-last.pth").absolute()
        EvalOptions(checkpoint=mae, data_path=deep).train_images()
        assert value_range() == (0, 1)
        if epochs == 1:
            assert train([*run, "--epochs", "2", "--resume", "auto"]) == 0
    assert export([str(mae), "exported.pth", "--to", "mae"]) == 0
    EvalOptions(checkpoint=tmp_path / "exported.pth", data_path=deep).train_images()
    assert value_range() == (0, 1)


def test_a_classifiers_range_is_that_of_what_it_learned_from(tmp_path, deep, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_colours(tmp_path / "colours", 2)
    convert(ConvertOptions(src="colours", out=Path("c.beton"), workers=1, value_range=(0, 1)))
    mae = save_trained(tmp_path / "mae.pth", value_range=None)
    run = ["finetune", "--checkpoint", str(mae), "--ffcv", "c.beton", "--val", "c.beton"]
    run += ["--epochs", "1", "--warmup_epochs", "0", "--batch_size", "4", "--num_workers", "0"]
    assert evaluate([*run, "--device", "cpu", "--output_dir", "tuned"]) == 0
    Path("c.beton.json").unlink()
    EvalOptions(checkpoint=tmp_path / "tuned/checkpoint-last.pth", data_path=deep).train_images()
    assert value_range() == (0, 1)


@pytest.mark.parametrize("workers", [0, 1])
def test_fine_tuning_reads_pixels_alike(deep, workers):
    """In worker processes, too; an image without a range is a bad sample."""
    (deep / "z.png").write_bytes(deep_images.file_bytes(deep_images.GRAY16, "PNG"))
    images = open_images(deep)
    images.labels = np.zeros(3, np.int64)
    loader = AugmentedLoader(
        images, lambda image: torch.from_numpy(np.array(image)[None]), None,
        shape=(1, *deep_images.GRAY16.shape), batch_size=3, num_workers=workers, pin_mem=False,
        world=World(0, 1, CPU), seed=0,
    )  # fmt: skip
    (batch,) = loader
    assert loader.report() == {"bad_samples": 2}
    assert all(np.array_equal(shown[0], deep_images.GRAY16 >> 8) for shown in batch.inputs)
    loader.set_epoch(0)
    with limited_to(None, (0, 1)):
        (batch,) = loader
    shown = dict(zip(batch.index.tolist(), batch.inputs, strict=True))
    assert np.array_equal(shown[0][0], np.rint(255.0 * deep_images.FLOATS))


def test_a_range_does_not_stay_for_the_next_evaluation(tmp_path, deep):
    ranged, plain = (
        save_trained(tmp_path / "a.pth", value_range=[0, 1]),
        save_trained(tmp_path / "b.pth"),
    )
    EvalOptions(checkpoint=ranged, data_path=deep).train_images()
    assert value_range() == (0, 1)
    images = EvalOptions(checkpoint=plain, data_path=deep).train_images()
    batches = CenterBatches(images, SIZE, batch_size=2, workers=0)
    assert list(batches) == [] and "no known range" in batches.bad[0]
    with pytest.raises(DataError, match="--value_range 2 1: LOW must be below HIGH"):
        EvalOptions(checkpoint=plain, data_path=deep, value_range=(2, 1)).train_images()


def test_settings_are_read_from_any_file_or_not_at_all(tmp_path):
    path = save_trained(tmp_path / "a.pth", crop="none")
    assert training_settings(path)["crop"] == "none"
    assert export([str(path), str(tmp_path / "b.safetensors"), "--to", "mae"]) == 0
    assert training_settings(tmp_path / "b.safetensors")["crop"] == "none"
    (tmp_path / "c.pth").write_text("no checkpoint")
    assert training_settings(tmp_path / "c.pth") == training_settings(tmp_path / "d.pth") == {}


def test_training_and_probing_from_the_command_line(tmp_path):
    """Settings are passed from the training's flags to results.json."""
    data = save_splits(tmp_path / "data", 4)
    model = "--model mae_vit_nano_patch16 --input_size 32 --batch_size 6 --num_workers 0"
    run = f"--data_path {data} {model} --device cpu --epochs 1 --warmup_epochs 0 --vis_freq 0"
    out = tmp_path / "run"
    assert train(f"{run} --crop none --output_dir {out}".split()) == 0
    options = f"--data_path {data} --device cpu --num_workers 0 --k 1"
    assert evaluate(f"knn --checkpoint {out / 'checkpoint-last.pth'} {options}".split()) == 0
    assert json.loads((out / "eval-knn" / "results.json").read_text())["settings"]["crop"] == "none"


@pytest.mark.parametrize(
    "args",
    [
        "some text", [1, 2], 3, torch.ones(3), {"value_range": "0 4095"}, {"value_range": 4095.0},
        {"value_range": [5, 1]}, {"value_range": [0, 1, 2]}, {"data_path": ["a", "b"]},
        {"dali": True}, {"crop": 224}, {"crop": True}, {"crop_ratio": 1.3}, {"crop_ratio": "abc"},
        {"crop_ratio": [0, 1]},
    ],
    ids=lambda args: str(args).replace(" ", ""),
)  # fmt: skip
def test_settings_of_other_projects_that_are_called_alike_are_none_of_ours(tmp_path, photos, args):
    mae = save_trained(tmp_path / "mae.pth")
    content = torch.load(mae, weights_only=True)
    torch.save({**content, "args": args}, mae)
    common = {"checkpoint": mae, "data_path": photos}
    assert not EvalOptions(**common).train_images().whole
    assert value_range() is None
    EvalOptions(**common, value_range=(0, 1)).train_images()
    options = FinetuneOptions(**common)
    options.settle_crops(training_settings(mae))
    assert (options.crop, options.crop_ratio) == ("random", RATIO)


def test_equal_bounds_of_crops_are_a_trainings(tmp_path):
    mae = save_trained(tmp_path / "mae.pth", crop_ratio=[1.0, 1.0])
    options = FinetuneOptions(checkpoint=mae)
    options.settle_crops(training_settings(mae))
    assert options.crop_ratio == (1.0, 1.0)


def test_what_is_to_be_said_of_a_range_is_said_once_and_of_one_that_is_given(
    tmp_path, photos, told
):
    mae = save_trained(tmp_path / "mae.pth", value_range=[0, 4095])
    convert(ConvertOptions(src=str(photos), out=tmp_path / "photos.beton", workers=1))
    common = {"checkpoint": mae, "ffcv": tmp_path / "photos.beton", "val": photos}
    for options in (EvalOptions(**common), EvalOptions(**common, value_range=(0, 99))):
        options.train_images(), options.val_images()
        given = options.value_range == (0, 99)
        assert told().count("not with --value_range 0 99") == given
        assert told().count("has no effect on") == given
