"""Measures of pictures against their formulas."""

import math

import numpy as np
import pytest
import torch
from fsim_by_hand import fsim_by_hand
from scipy import signal

pytest.importorskip("torchmetrics")
pytest.importorskip("piq")
import piq

from fastimae.pictures.quality import quality


@pytest.fixture
def pictures():
    """Three smooth pictures and worse and worse copies of them, uint8 [3, 32, 32, 3]."""
    small = torch.rand(3, 3, 6, 6)
    truth = torch.nn.functional.interpolate(small, size=(32, 32), mode="bicubic").clamp(0, 1)
    noise = torch.tensor([0.02, 0.08, 0.3])[:, None, None, None] * torch.randn(truth.shape)
    to_bytes = lambda x: (x.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)  # noqa: E731
    return to_bytes(truth + noise), to_bytes(truth)


def test_mse_and_psnr_follow_their_formulas(pictures):
    shown, truth = pictures
    measures = quality(shown, truth)
    for i in range(3):
        error = np.mean((shown[i].numpy() / 255 - truth[i].numpy() / 255) ** 2)
        assert float(measures["mse"][i]) == pytest.approx(error, rel=1e-5)
        assert float(measures["psnr"][i]) == pytest.approx(10 * math.log10(1 / error), rel=1e-5)


def test_ssim_follows_its_formula(pictures):
    """Wang et al. (2004): Gaussian window of 11 pixels and deviation 1.5; borders mirrored."""
    shown, truth = (images.numpy().astype(float) / 255 for images in pictures)
    line = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2
    mirrored = lambda image: np.pad(image, 5, mode="reflect")  # noqa: E731
    smooth = lambda image: signal.convolve2d(mirrored(image), window, mode="valid")  # noqa: E731
    measures = quality(*pictures)
    for i in range(3):
        channels = []
        for c in range(3):
            x, y = shown[i, ..., c], truth[i, ..., c]
            mx, my = smooth(x), smooth(y)
            vx, vy = smooth(x * x) - mx**2, smooth(y * y) - my**2
            cov = smooth(x * y) - mx * my
            c1, c2 = 0.01**2, 0.03**2
            channels.append(
                ((2 * mx * my + c1) * (2 * cov + c2))
                / ((mx**2 + my**2 + c1) * (vx + vy + c2))
            )  # fmt: skip
        assert float(measures["ssim"][i]) == pytest.approx(np.mean(channels), abs=1e-4)


def test_fsim_is_piqs_in_colour_and_gray(pictures):
    shown, truth = pictures
    x, y = (images.permute(0, 3, 1, 2).float() for images in pictures)
    theirs = piq.fsim(x, y, data_range=255, reduction="none")
    assert torch.allclose(quality(shown, truth)["fsim"], theirs, atol=1e-5)
    gray = piq.fsim(x[:, :1], y[:, :1], data_range=255, reduction="none", chromatic=False)
    measured = quality(shown[..., :1], truth[..., :1])
    assert torch.allclose(measured["fsim"], gray, atol=1e-5)
    assert set(quality(shown[..., :2], truth[..., :2])) == {"mse", "psnr", "ssim"}


def test_fsim_follows_its_formula(pictures):
    """piq takes the real part of similar colours' powers another way: it differs by 0.001 there."""
    shown, truth = pictures
    for channels in (1, 3):
        measured = quality(shown[..., :channels], truth[..., :channels])["fsim"]
        for i in range(3):
            wanted = fsim_by_hand(shown[i, ..., :channels], truth[i, ..., :channels])
            assert float(measured[i]) == pytest.approx(wanted, abs=2e-3 if channels == 3 else 1e-4)


def test_fsim_of_few_pictures_at_a_time_is_the_same(pictures, monkeypatch):
    at_once = quality(*pictures)["fsim"]
    monkeypatch.setattr("fastimae.pictures.quality.FSIM_PIXELS", 1)
    few = quality(*pictures)["fsim"]  # FFTs of another number of pictures may sum otherwise
    torch.testing.assert_close(few, at_once, rtol=0, atol=1e-6)


def test_worse_pictures_measure_worse_and_equal_ones_best(pictures):
    shown, truth = pictures
    measures = quality(shown, truth)
    assert torch.equal(measures["mse"].argsort(), torch.arange(3))
    for name in ("psnr", "ssim", "fsim"):
        assert torch.equal(measures[name].argsort(descending=True), torch.arange(3)), name
    same = quality(truth, truth)
    assert same["mse"].eq(0).all() and same["psnr"].eq(100).all()
    assert torch.allclose(same["ssim"], torch.ones(3))
    assert torch.allclose(same["fsim"], torch.ones(3))


@pytest.mark.parametrize("shade", [0, 7, 255])
def test_pictures_of_one_colour_are_measured(shade):
    flat = torch.full((2, 32, 32, 3), shade, dtype=torch.uint8)
    other = torch.full_like(flat, 100)
    for values in (*quality(flat, flat).values(), *quality(flat, other).values()):
        assert values.shape == (2,) and values.isfinite().all()


def test_small_pictures_have_fewer_measures():
    tiny = torch.randint(0, 256, (2, 8, 8, 3), dtype=torch.uint8)
    assert set(quality(tiny, tiny)) == {"mse", "psnr"}
