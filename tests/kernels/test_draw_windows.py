"""Crop windows and flips: the loaders' for the same keys, by every implementation."""

import sys

import numpy as np
import pytest
import torch

from fastimae.kernels import draw_windows, reference_crops
from fastimae.loaders.images.crops import Crops

IMPLS = ["torch", "triton"]
BOTH = pytest.mark.parametrize("impl", IMPLS)
BOUNDS = {"scale": (0.2, 1.0), "ratio": (3 / 4, 4 / 3)}
SETTINGS = {
    "as usual": {"size": (224, 224)},
    "small": {"size": (32, 32), "scale": (0.08, 0.3)},
    "oblong, without flips": {"size": (96, 160), "hflip": False},
    "often in the middle": {"size": (64, 64), "scale": (0.9, 1.0), "ratio": (0.5, 2.0)},
    "one size": {"size": (64, 64), "scale": (0.5, 0.5), "ratio": (1.0, 1.0)},
    "whole images": {"size": (32, 32), "random": False},
}


@pytest.fixture(autouse=True)
def _one_program(monkeypatch):
    """Let the interpreter, which takes its time for each program, draw many keys in one."""
    monkeypatch.setattr(sys.modules["fastimae.kernels.draw_windows"], "_BLOCK", 4096)


def some_images(count, longest=700, seed=0):
    """Draw keys of all 64 bits, heights and widths."""
    generator = np.random.default_rng(seed)
    keys = generator.integers(-(2**63), 2**63 - 1, count)
    return keys, *generator.integers(1, longest, (2, count))


def drawn(crops, keys, heights, widths, **options):
    sizes = (torch.from_numpy(side).int() for side in (heights, widths))
    window, flip = draw_windows(
        torch.from_numpy(keys), *sizes, scale=crops.scale, ratio=crops.bounds,
        random=crops.random, hflip=crops.hflip, **options,
    )  # fmt: skip
    assert window.dtype == torch.int32 and flip.dtype == torch.bool
    return window.numpy(), flip.numpy()


@BOTH
@pytest.mark.parametrize("name", SETTINGS)
def test_they_are_the_loaders(impl, name):
    crops, images = Crops(**SETTINGS[name]), some_images(5000)  # the last program is ragged
    window, flip = drawn(crops, *images, impl=impl)
    expected, mirrored = crops.draw(*images)
    assert np.array_equal(window, expected) and np.array_equal(flip, mirrored)
    assert flip.any() == crops.hflip
    fallen = crops.falls_back(*images)
    assert fallen.any() and not fallen.all()  # so both ways were seen


def test_a_million_keys():
    crops = Crops(size=(224, 224))
    for seed in range(16):
        images = some_images(1 << 16, 500, seed)
        window, flip = drawn(crops, *images)
        expected, mirrored = crops.draw(*images)
        assert np.array_equal(window, expected) and np.array_equal(flip, mirrored)


@BOTH
def test_a_key_has_its_window_in_any_batch(impl):
    keys, heights, widths = (torch.from_numpy(x) for x in some_images(9))
    sizes = heights.int(), widths.int()
    window, flip = draw_windows(keys, *sizes, **BOUNDS, impl=impl)
    alone = [draw_windows(*(x[i : i + 1] for x in (keys, *sizes)), **BOUNDS) for i in range(9)]
    assert torch.equal(window, torch.cat([one for one, _ in alone]))
    assert torch.equal(flip, torch.cat([one for _, one in alone]))
    spaced = (torch.stack([x, x + 1], 1)[:, 0] for x in (keys, *sizes))
    assert torch.equal(window, draw_windows(*spaced, **BOUNDS, impl=impl)[0])


@BOTH
def test_empty_batch(impl):
    none = torch.zeros(0, dtype=torch.int32)
    window, flip = draw_windows(none.long(), none, none, **BOUNDS, impl=impl)
    assert window.shape == (0, 4) and flip.shape == (0,)


def test_registration():
    sizes = torch.tensor([5, 7, 9], dtype=torch.int32)
    args = torch.arange(3), sizes, sizes, [0.2, 1.0], [0.75, 4 / 3], True, True
    torch.library.opcheck(torch.ops.fastimae.draw_windows, args)


@BOTH
def test_compiled(impl):
    compiled = torch.compile(draw_windows, fullgraph=True, backend="aot_eager")
    args = torch.arange(5), *torch.full((2, 5), 40, dtype=torch.int32)
    expected = reference_crops.draw_windows(*args, **BOUNDS)
    for got, wanted in zip(compiled(*args, **BOUNDS, impl=impl), expected, strict=True):
        assert torch.equal(got, wanted)
