"""`create_loader`: sources, folder layouts, and errors that name a flag."""

import logging

import numpy as np
import pytest
import torch
from PIL import Image

from fastimae.loaders import (
    BetonReader,
    BetonWriter,
    DataError,
    LoaderSettings,
    create_loader,
    native_library,
)
from fastimae.loaders.backends.native import NativeLoader
from fastimae.loaders.images.crops import Crops


def test_raw_beton_samples(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 30, 40, 3), dtype=np.uint8)
    with BetonWriter(tmp_path / "raw.beton") as writer:
        for image in pixels:
            writer.append(image.tobytes(), height=30, width=40, mode="raw", label=0)
    with create_loader(
        ffcv=tmp_path / "raw.beton", batch_size=4, mix_group=0, input_size=(30, 40),
        min_crop=1.0, hflip=False,
    ) as loader:  # fmt: skip
        batch = next(iter(loader))
    # A window of the whole area and of the image's own shape is the image itself.
    windows, _ = Crops(size=(30, 40), scale=(1.0, 1.0)).draw(batch.key.numpy(), [30] * 4, [40] * 4)
    for row, (top, left, height, width) in enumerate(windows.tolist()):
        part = Image.fromarray(pixels[batch.index[row]][top : top + height, left : left + width])
        assert np.array_equal(batch.images[row], part.resize((40, 30), Image.Resampling.BICUBIC))


def test_folder_layouts(data, tmp_path):
    """Class folders in train/ are preferred, and a flat folder has no labels."""
    (tmp_path / "split").mkdir()
    (tmp_path / "split" / "train").symlink_to(data.folder)
    (tmp_path / "split" / "val").mkdir()
    flat = tmp_path / "flat"
    flat.mkdir()
    (flat / "notes.txt").write_text("no image")
    for name, payload in zip(data.names, data.payloads, strict=True):
        (flat / name.replace("/", "_")).write_bytes(payload)
    with data.loader("folder-0") as loader:
        expected = list(loader)
    with create_loader(data_path=tmp_path / "split", num_workers=0, **data.settings) as loader:
        assert data.same(list(loader), expected)
    with create_loader(data_path=flat, num_workers=0, **data.settings) as loader:
        for batch, labelled in zip(loader, expected, strict=True):
            assert torch.equal(batch.images, labelled.images)
            assert (batch.labels == -1).all()
    with pytest.raises(DataError, match="--same_class_ratio"):
        create_loader(data_path=flat, same_class_ratio=0.5, **data.settings)


def test_synthetic_images_belong_to_samples(data):
    with data.loader("synthetic-0", in_chans=5, batch_size=20) as loader:
        batches = list(loader)
    images = {}
    for batch in batches:
        assert (
            batch.images.shape == (20, *data.settings["input_size"], 5)
            and batch.images.dtype == torch.uint8
        )
        assert torch.equal(batch.labels, batch.index % 10)
        images |= dict(zip(batch.index.tolist(), batch.images, strict=True))
    flat = torch.stack(list(images.values())).flatten(1).float()
    assert (torch.cdist(flat, flat) + 1e9 * torch.eye(len(flat))).min() > 100
    assert flat.min() < 40 and flat.max() > 215


@pytest.mark.parametrize(
    "settings",
    [
        {"input_size": [16, 24], "crop_ratio": [3 / 4, 4 / 3]},
        {"input_size": np.array([16, 24]), "batch_size": np.int64(8), "crop_ratio": [3 / 4, 4 / 3]},
        {"input_size": torch.Size([16, 24])},
    ],
    ids=["lists", "numpy", "torch"],
)
def test_numbers_may_be_of_lists_and_of_numpy(settings):
    with create_loader(**{"synthetic": True, "batch_size": 8} | settings) as loader:
        assert next(iter(loader)).images.shape == (8, 16, 24, 3)


@pytest.mark.parametrize("side", [16, np.int64(16), [16], (16,)], ids=str)
def test_one_side_is_that_of_a_square(side):
    with create_loader(synthetic=True, batch_size=8, input_size=side) as loader:
        assert next(iter(loader)).images.shape == (8, 16, 16, 3)


@pytest.mark.parametrize(
    ("settings", "flags"),
    [
        ({}, ["--ffcv", "--data_path", "--synthetic"]),
        ({"synthetic": True, "data_path": "x"}, ["--ffcv", "--data_path", "--synthetic"]),
        ({"ffcv": "missing.beton"}, ["missing.beton"]),
        ({"data_path": "missing"}, ["--data_path", "missing"]),
        ({"data_path": "."}, ["--data_path"]),
        ({"synthetic": True, "decoder": "pillow"}, ["--decoder", "--ffcv"]),
        ({"ffcv": "x.beton", "decoder": "magic"}, ["--decoder", "magic"]),
        ({"ffcv": "x.beton", "cache": "disk"}, ["--cache", "disk"]),
        ({"synthetic": True, "in_chans": 0}, ["--in_chans"]),
        ({"synthetic": True, "min_crop": 0.9, "max_crop": 0.5}, ["--min_crop", "--max_crop"]),
        ({"synthetic": True, "min_crop": 0.0}, ["--min_crop"]),
        ({"synthetic": True, "num_workers": -1}, ["--num_workers"]),
        ({"synthetic": True, "input_size": (8, 8, 3)}, ["--input_size"]),
        ({"synthetic": True, "synthetic_samples": 3}, ["--batch_size"]),
    ],
)
def test_wrong_settings_name_the_flag(settings, flags, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as caught:
        create_loader(batch_size=8, mix_group=0, **settings)
    assert all(flag in str(caught.value) for flag in flags) and "\n" not in str(caught.value)


def test_reader_is_closed_when_the_settings_do_not_fit(data, resources):
    before = resources.at_rest()
    with pytest.raises(DataError, match="--mix_group"):
        data.loader("pillow-0", mix_group=5)
    assert resources.settle_at(before)
    with BetonReader(data.beton) as reader:
        assert reader.labels.tolist() == data.labels


def test_without_the_engine_pillow_decodes_and_says_so(data, monkeypatch, caplog):
    with data.loader("pillow-0") as loader:
        expected = list(loader)
    monkeypatch.setattr(native_library, "_load", lambda: (None, "not built: install g++"))
    settings = {"ffcv": data.beton, "num_workers": 0, **data.settings}
    with caplog.at_level(logging.WARNING, "fastimae"), create_loader(**settings) as loader:
        assert data.same(list(loader), expected)
    assert caplog.text.count("install g++") == 1
    with pytest.raises(DataError, match=r"--decoder native: not built: install g\+\+"):
        create_loader(decoder="native", **settings)


@pytest.mark.skipif(native_library.load() is None, reason=native_library.why_missing())
def test_the_engine_decodes_by_default(data):
    with create_loader(ffcv=data.beton, num_workers=0, **data.settings) as loader:
        assert isinstance(loader, NativeLoader)


def test_cache_ram_gives_the_same_batches_and_one_rank_logs(data, heard, caplog, monkeypatch):
    monkeypatch.setattr("fastimae.progress._FIRST_SECONDS", 0)  # else quick work has no lines
    with data.loader("pillow-0") as loader, data.loader("pillow-0", cache="ram") as cached:
        assert data.same(list(loader), list(cached))
    assert "to memory" in caplog.text
    caplog.clear()
    data.loader("pillow-0", cache="ram", batch_size=4, rank=1, world_size=2).close()
    assert "to memory" not in caplog.text


@pytest.mark.parametrize("batch_size", [1, 48, 100, 200])
def test_any_batch_size_does_where_nothing_is_mixed(batch_size):
    settings = {"synthetic": True, "synthetic_samples": 200, "input_size": 8}
    with create_loader(**settings, batch_size=batch_size) as loader:
        batch = next(iter(loader))
    assert batch.images.shape == (batch_size, 8, 8, 3)
    assert sorted(batch.partner.tolist()) == list(range(batch_size))


def test_settings_are_taken_together_or_by_name(data):
    named = {"ffcv": data.beton, "num_workers": 0, **data.settings}
    with create_loader(**named) as one, create_loader(LoaderSettings(**named)) as other:
        assert data.same(list(one), list(other))
    with pytest.raises(TypeError, match="batchsize"):
        create_loader(ffcv=data.beton, batchsize=4)
    with pytest.raises(TypeError, match="give one or the other"):
        create_loader(LoaderSettings(**named), batch_size=4)
