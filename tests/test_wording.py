"""Errors name parameters to users of the Python API, and flags to users of commands."""

import io
import pickle
import re

import pytest
import torch
from PIL import Image

import fastimae
from fastimae import cli, wording
from fastimae.engine.checkpoint import load_checkpoint
from fastimae.engine.checkpoint_file import CheckpointError
from fastimae.interop import load_model
from fastimae.kernels import random_masking
from fastimae.loaders import BetonReader, BetonWriter, DataError, create_loader
from fastimae.objectives import IMAE, MAE

SYNTHETIC = {"synthetic": True, "batch_size": 8, "num_workers": 0, "mix_group": 8}
TINY = {"img_size": (32, 32)}


@pytest.fixture
def python(monkeypatch):
    """No command runs, as in a user's own program."""
    monkeypatch.setattr(wording, "_command_runs", False)


def imae(**settings):
    return IMAE(fastimae.create_model("mae_vit_nano_patch8", heads=2, **TINY), **settings)


def mae(**settings):
    return MAE(fastimae.create_model("mae_vit_nano_patch8", **TINY), **settings)


WRONG = {
    "no source": (lambda: create_loader(batch_size=8), DataError, "none of ffcv"),
    "two sources": (lambda: create_loader(**SYNTHETIC, ffcv="a"), DataError, "more than one of"),
    "mix_group": (
        lambda: create_loader(**SYNTHETIC | {"batch_size": 12}),
        DataError,
        "batch_size 12 is not a multiple of mix_group 8",
    ),
    "pairs": (
        lambda: create_loader(**SYNTHETIC | {"batch_size": 9, "mix_group": 9}, same_class_ratio=1),
        DataError,
        "same_class_ratio needs an even mix_group",
    ),
    "decoder": (
        lambda: create_loader(**SYNTHETIC, decoder="ffcv"),
        DataError,
        "decoder has no effect without ffcv: drop it",
    ),
    "crop": (lambda: create_loader(**SYNTHETIC, crop="some"), DataError, "crop some is not one of"),
    "model": (
        lambda: fastimae.create_model("vit_base"),
        ValueError,
        "model vit_base is not known: did you mean mae_vit_base_patch16?",
    ),
    "size": (
        lambda: fastimae.create_model("mae_vit_nano_patch8", img_size=(33, 33)),
        ValueError,
        "input_size 33x33 is not a multiple",
    ),
    "mask_ratio": (
        lambda: mae(mask_ratio=1.5),
        ValueError,
        "mask_ratio must be between 0 and 1, not 1.5",
    ),
    "mix_beta": (lambda: imae(mix_beta=0), ValueError, "mix_beta must be positive, not 0"),
    "mix_lambda": (lambda: imae(mix_lambda=2), ValueError, "mix_lambda must be between"),
    "teacher": (
        lambda: imae(teacher=fastimae.create_model("mae_vit_nano_patch8", heads=2, **TINY)),
        ValueError,
        "teacher must be a plain MAE",
    ),
}


@pytest.mark.parametrize(("call", "kind", "words"), WRONG.values(), ids=WRONG)
def test_the_api_names_parameters(python, call, kind, words):
    with pytest.raises(kind, match=f"^{re.escape(words)}") as raised:
        call()
    assert "--" not in str(raised.value)


def test_a_reader_names_its_parameter(python, tmp_path):
    with BetonWriter(tmp_path / "a.beton") as writer:
        data = io.BytesIO()
        Image.new("RGB", (8, 8)).save(data, "JPEG")
        writer.append(data.getvalue(), height=8, width=8, label=0)
    with pytest.raises(DataError, match=r"(?<!-)image_field photo"):
        BetonReader(tmp_path / "a.beton", image_field="photo")


def test_an_iteration_names_its_parameter(python, tmp_path):
    broken = tmp_path / "class"
    broken.mkdir()
    for number in range(8):
        (broken / f"{number}.jpg").write_bytes(b"no image")
    settings = {**SYNTHETIC, "synthetic": False, "data_path": tmp_path, "max_bad_samples": 2}
    with (
        create_loader(**settings, input_size=(32, 32)) as loader,
        pytest.raises(DataError, match=r"8 bad samples, max_bad_samples is 2: "),
    ):
        next(iter(loader))


@pytest.mark.parametrize("name", ["run--v2/a.pth", "a/--old/b.pth", "a---b.pth", "a--lr-3.pth"])
def test_names_of_files_stay_as_they_are(python, tmp_path, name):
    with pytest.raises(CheckpointError) as raised:
        load_model(tmp_path / name)
    assert name in str(raised.value)


def test_a_command_names_flags_in_the_same_errors(python, tmp_path, capsys):
    flags = ["--synthetic", "--batch_size", "12", "--mix_group", "8", "--objective", "imae"]
    assert cli.train([*flags, "--device", "cpu", "--output_dir", str(tmp_path)]) == 2
    assert "--batch_size 12 is not a multiple of --mix_group 8" in capsys.readouterr().err
    with pytest.raises(DataError) as raised:
        create_loader(**SYNTHETIC | {"batch_size": 12})
    assert "--" not in str(raised.value), "a command that has ended speaks no more"


def test_what_is_typed_into_a_shell_keeps_its_flags(python):
    text = "--cache ram: too big: leave out --cache (fastimae-convert --max_resolution, --reencode)"
    assert str(DataError(text)) == text.replace("--cache", "cache")
    assert str(DataError("docker run --shm-size=8g, or --ipc=host")).count("--") == 2


def test_words_are_chosen_where_they_are_read(python):
    error = pickle.loads(pickle.dumps(DataError("--num_workers -1 must be 0 or more")))
    assert str(error) == "num_workers -1 must be 0 or more"
    with wording.as_command():
        assert str(error) == "--num_workers -1 must be 0 or more"


def test_a_missing_checkpoint_is_named(python, tmp_path):
    with pytest.raises(CheckpointError, match=r"none\.pth"):
        load_checkpoint(tmp_path / "none.pth")


@pytest.mark.parametrize("ratio", [-0.5, 1.5, float("nan")])
def test_a_share_that_is_none_is_a_whole_sentence(ratio):
    key = torch.zeros(1, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"^mask_ratio must be between 0 and 1, not"):
        random_masking(key, (4, 4), ratio)
