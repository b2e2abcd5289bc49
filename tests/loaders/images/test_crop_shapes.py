"""Crops for targets that are not square, and uncropped images, in every reader."""

import io

import numpy as np
import pytest
import torch
from back_ends import QUICK
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import stats
from torchvision.transforms import RandomResizedCrop
from windows_by_hand import window_by_hand

from fastimae.arguments import parse_training
from fastimae.config import flatten
from fastimae.loaders import create_loader
from fastimae.loaders.errors import DataError
from fastimae.loaders.images.crops import Crops
from fastimae.settings import ConfigError

READERS = [*(name for name in QUICK if name != "synthetic-0"), "dalifolder-1"]
READERS = [name for name in READERS if "dali" not in name or "dali-1" in QUICK]
SIDES = st.integers(1, 700)


def sides(count, height, width):
    return np.full(count, height), np.full(count, width)


@given(
    key=st.integers(-(2**63), 2**63 - 1), side=SIDES, height=SIDES, width=SIDES,
    low=st.floats(0.01, 1), high=st.floats(1, 100),
)  # fmt: skip
def test_windows_of_square_targets_equal_torchvisions(key, side, height, width, low, high):
    """Bit by bit, whatever the bounds."""
    for ratio in ((3 / 4, 4 / 3), (low, high)):
        crops = Crops(size=(side, side), scale=(0.1, 1.0), ratio=ratio)
        (window,), (flip,) = crops.draw(np.array([key]), [height], [width])
        expected, mirrored = window_by_hand(key, height, width, (0.1, 1.0), ratio)
        if min(expected[2:]) > 0:  # the middle of a tiny image may have no pixels
            assert (tuple(window), flip) == (expected, mirrored)


@given(size=st.tuples(SIDES, SIDES), height=SIDES, width=SIDES, key=st.integers(0, 2**60))
def test_windows_lie_in_their_image_and_have_pixels(size, height, width, key):
    crops = Crops(size=size, scale=(0.05, 1.0))
    ((top, left, high, wide),), _ = crops.draw(np.array([key]), [height], [width])
    assert top >= 0 and left >= 0 and 0 < high <= height - top and 0 < wide <= width - left


@pytest.mark.parametrize(
    ("size", "image"),
    [((128, 1024), (128, 1024)), ((128, 1024), (300, 1000)), ((96, 32), (90, 60))],
)
def test_windows_have_the_shape_of_their_target(size, image):
    """As torchvision draws them with bounds relative to the target's shape; the draws are
    fixed by seeds."""
    count, shape = 3000, size[1] / size[0]
    windows, _ = Crops(size=size, scale=(0.2, 1.0)).draw(np.arange(count), *sides(count, *image))
    torch.manual_seed(0)
    bounds = [3 / 4 * shape, 4 / 3 * shape]
    picture = torch.empty(3, *image)
    theirs = np.array(
        [RandomResizedCrop.get_params(picture, [0.2, 1.0], bounds) for _ in range(count)]
    )
    for column in range(4):
        assert stats.ks_2samp(windows[:, column], theirs[:, column]).pvalue > 0.001
    stretch = windows[:, 3] / windows[:, 2] / shape
    assert stretch.min() > 0.7 and stretch.max() < 1.4, "pixels of another shape than the target's"
    assert len(np.unique(windows[:, 3])) > 20, "the same columns always"


def test_bounds_may_be_others():
    crops = Crops(size=(50, 100), scale=(0.2, 0.3), ratio=(0.9, 1.1))
    windows, _ = crops.draw(np.arange(500), *sides(500, 400, 500))
    shapes = windows[:, 3] / windows[:, 2]
    assert shapes.min() == pytest.approx(1.8, abs=0.03)
    assert shapes.max() == pytest.approx(2.2, abs=0.03)


@pytest.mark.parametrize("width", [40, 100, 128, 256])
def test_falls_back_is_right(width):
    """The fallback window is never drawn at random here, so the comparison is sound."""
    found = Crops(size=(32, 32)).falls_back(np.arange(60), *sides(60, 32, width))
    middle = 0, (width - 43) // 2, 32, 43  # 4 / 3 of the height
    by_hand = [window_by_hand(key, 32, width, (0.2, 1.0), (3 / 4, 4 / 3))[0] for key in range(60)]
    assert found.tolist() == [window == middle for window in by_hand]
    assert found.any() == (width > 40) and found.all() == (width == 256)


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("channels", [3, 1])
def test_every_reader_can_skip_the_crop(data, name, channels):
    """Half of the images are mirrored, as crops are."""
    settings = {"crop": "none", "batch_size": data.count, "mix_group": 0, "in_chans": channels}
    with data.loader(name, **settings) as loader:
        (batch,) = loader
    mirrored = []
    for index, pixels in zip(batch.index.tolist(), batch.images, strict=True):
        image = Image.open(io.BytesIO(data.payloads[index])).convert(
            "RGB" if channels == 3 else "L"
        )
        image = image.resize(data.settings["input_size"][::-1], Image.Resampling.BICUBIC)
        whole = np.asarray(image).reshape(pixels.shape)
        ways = [data.shows(name, pixels, way) for way in (whole, whole[:, ::-1])]
        assert any(ways), index
        mirrored.append(ways == [False, True])
    assert 10 < sum(mirrored) < 32
    _, flips = Crops(size=(9, 9)).draw(batch.key.numpy(), *sides(data.count, 9, 9))
    assert flips.tolist() == mirrored


@pytest.mark.parametrize("name", READERS)
def test_every_reader_shows_oblong_windows(data, name):
    size = (8, 40)
    with data.loader(name, input_size=size, crop_ratio=(0.5, 2.0), min_crop=0.3) as loader:
        batch = next(iter(loader))
    crops = Crops(size=size, scale=(0.3, 1.0), ratio=(0.5, 2.0))
    for index, key, pixels in zip(batch.index, batch.key, batch.images, strict=True):
        image = Image.open(io.BytesIO(data.payloads[index])).convert("RGB")
        ((top, left, high, wide),), (flip,) = crops.draw(
            key.numpy()[None], [image.height], [image.width]
        )
        part = image.crop((left, top, left + wide, top + high))
        expected = np.asarray(part.resize(size[::-1], Image.Resampling.BICUBIC))
        assert data.shows(name, pixels, expected[:, ::-1] if flip else expected)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--crop none --min_crop 0.3", "--min_crop has no effect with --crop none"),
        ("--crop none --max_crop 0.3", "--max_crop has no effect with --crop none"),
        ("--crop none --crop_ratio 0.5 2", "--crop_ratio has no effect with --crop none"),
        ("--crop_ratio 2 1", "--crop_ratio 2 1 must satisfy 0 < LOW <= HIGH"),
        ("--crop_ratio 0 1", "--crop_ratio 0 1 must satisfy 0 < LOW <= HIGH"),
        ("--crop_ratio 1 inf", "--crop_ratio 1 inf must satisfy 0 < LOW <= HIGH"),
        ("--synthetic --crop none", "--crop has no effect with --synthetic"),
    ],
)
def test_settings_without_effect_or_sense_are_named(flags, words):
    with pytest.raises(ConfigError, match=words):
        parse_training("fastimae-train", flags.split())


def test_the_settings_are_recorded_and_checked_by_the_loader_too():
    command = "--ffcv a.beton --crop_ratio 0.5 2"
    settings = flatten(parse_training("fastimae-train", command.split()))
    assert settings["crop"] == "random" and settings["crop_ratio"] == [0.5, 2.0]
    for wrong in ({"crop": "some"}, {"crop_ratio": (2, 1)}):
        with pytest.raises(DataError, match=f"--{next(iter(wrong))}"):
            create_loader(synthetic=True, batch_size=4, **wrong)
