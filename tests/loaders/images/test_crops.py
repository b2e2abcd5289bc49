"""Windows compared with a scalar transcription and torchvision; pixels with torchvision."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import stats
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms.functional import resized_crop
from windows_by_hand import window_by_hand

from fastimae.loaders.images.crops import Crops, draw_windows
from fastimae.loaders.images.decode import crop_and_resize

KEYS = st.integers(-(2**63), 2**63 - 1)
SIDES = st.one_of(st.integers(1, 12), st.integers(1, 3000))


@given(
    samples=st.lists(st.tuples(KEYS, SIDES, SIDES), max_size=8),
    scale=st.sampled_from([(0.2, 1.0), (0.08, 0.9), (1.0, 1.0), (0.0001, 0.001)]),
    ratio=st.sampled_from([(3 / 4, 4 / 3), (1.0, 1.0), (0.5, 0.6)]),
)
def test_windows_equal_transcription(samples, scale, ratio):
    key, heights, widths = np.array(samples, dtype=np.int64).reshape(-1, 3).T
    windows, flip = draw_windows(key, heights, widths, scale, ratio)
    for row, (k, h, w) in enumerate(samples):
        expected, mirrored = window_by_hand(k, h, w, scale, ratio)
        assert tuple(windows[row]) == expected
        assert flip[row] == mirrored
    top, left, high, wide = windows.T
    assert (top >= 0).all() and (left >= 0).all() and (high > 0).all() and (wide > 0).all()
    assert (top + high <= heights).all() and (left + wide <= widths).all()


@pytest.mark.parametrize(("height", "width"), [(375, 500), (90, 400), (640, 427), (8, 5)])
def test_windows_distributed_as_torchvision(height, width):
    """Two-sample Kolmogorov-Smirnov test on each window number; the draws are fixed by seeds."""
    count = 4000
    ours, flip = draw_windows(
        np.arange(count), np.full(count, height), np.full(count, width), (0.2, 1.0)
    )
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    theirs = np.array(
        [RandomResizedCrop.get_params(image, [0.2, 1.0], [3 / 4, 4 / 3]) for _ in range(count)]
    )
    for column in range(4):
        assert stats.ks_2samp(ours[:, column], theirs[:, column]).pvalue > 0.001
    assert abs(flip.mean() - 0.5) < 4 * math.sqrt(0.25 / count)


def test_no_flip_without_hflip():
    key, side = np.arange(64), np.full(64, 50)
    windows, flip = Crops(size=(8, 8), hflip=False).draw(key, side, side)
    mirrored_windows, mirrored = Crops(size=(8, 8)).draw(key, side, side)
    assert not flip.any() and mirrored.any()
    assert np.array_equal(windows, mirrored_windows)


def noise(mode: str, height: int, width: int) -> Image.Image:
    pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "P", "RGBA"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(32, 32), (17, 40)])
def test_pixels_equal_torchvision_on_pil(mode, channels, size):
    image = noise(mode, 61, 83)
    expected_image = image.convert("RGB" if channels == 3 else "L")
    keys = np.arange(12)
    windows, flips = draw_windows(keys, np.full(12, 61), np.full(12, 83), (0.05, 1.0))
    for window, flip in zip(windows.tolist(), flips.tolist(), strict=True):
        expected = np.asarray(
            resized_crop(expected_image, *window, size, InterpolationMode.BICUBIC)
        ).reshape(*size, channels)
        shown = crop_and_resize(image, window, flip, Crops(size=size, channels=channels))
        assert np.array_equal(shown, expected[:, ::-1] if flip else expected)


def test_torchvision_tensor_path_is_close_not_equal():
    """torchvision rounds tensors differently: some pixels of noise differ by 1 of 255."""
    image = noise("RGB", 61, 83)
    window, size = (3, 5, 50, 70), (32, 32)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    tensor = resized_crop(pixels, *window, size, InterpolationMode.BICUBIC, antialias=True)
    shown = crop_and_resize(image, window, False, Crops(size=size)).astype(int)
    difference = np.abs(shown - tensor.permute(1, 2, 0).numpy())
    assert 0 < difference.mean() < 0.3 and difference.max() <= 2
