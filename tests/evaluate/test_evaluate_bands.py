"""Evaluation of images of six channels and 16 bits: views, crops, tasks, errors, measures."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from toy_images import BANDS, save_bands, save_mae

pytest.importorskip("timm")
pytest.importorskip("torchmetrics")
pytest.importorskip("piq")

from fastimae import cli
from fastimae.evaluate.center_batches import CenterBatches, center_view
from fastimae.evaluate.finetuning.band_crops import band_transform
from fastimae.evaluate.images import open_images
from fastimae.evaluate.labels.cropped_features import crop_transform
from fastimae.loaders import BetonWriter
from fastimae.loaders.errors import DataError
from fastimae.loaders.images.bands import BandImage
from fastimae.loaders.images.crops import Crops
from fastimae.loaders.images.pixel_form import PixelForm
from fastimae.pictures.quality import quality
from fastimae.settings import ConfigError

FORM = PixelForm(6, np.dtype(np.uint16))


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A folder with a checkpoint, mae.pth, and data of three classes, in files of 16 bits."""
    root = tmp_path_factory.mktemp("bands")
    save_mae(root / "mae.pth", depth=2, **BANDS)
    save_bands(root / "data" / "train", 8)
    save_bands(root / "data" / "val", 4, seed=1)
    return root


def pixels_of(images, **how):
    return torch.cat([pixels for pixels, _ in CenterBatches(images, **how)])


def test_batches_are_the_pixels_of_files_and_of_a_beton(toy):
    data = toy / "data" / "val"
    files = [np.load(path) for path in sorted(data.glob("*/*.npy"))]
    with BetonWriter(toy / "x.beton", form=FORM) as writer:
        for pixels in files:
            writer.append(pixels.tobytes(), mode="raw", height=32, width=32, label=0)
    how = {"size": (32, 32), "batch_size": 5, "channels": 6}
    for source, workers in ((data, 0), (toy / "x.beton", 2)):
        got = pixels_of(open_images(source), workers=workers, **how)
        assert got.dtype == torch.uint16 and np.array_equal(got.numpy(), np.stack(files))


@pytest.mark.parametrize("size", [(24, 40), (32, 32), (300, 260)])
@pytest.mark.parametrize("whole", [True, False])
def test_views_of_bands_are_those_of_rgb_images(size, whole):
    pixels = np.random.default_rng(0).integers(0, 256, (50, 61, 3), dtype=np.uint8)
    views = [center_view(x, size, 3, whole) for x in (Image.fromarray(pixels), BandImage(pixels))]
    assert np.array_equal(*views)


@pytest.mark.parametrize("hflip", [True, False])
def test_crops_of_bands_are_those_of_rgb_images(hflip):
    pixels = np.random.default_rng(0).integers(0, 256, (50, 61, 3), dtype=np.uint8)
    crops = Crops(size=(16, 24), channels=3, scale=(0.2, 1.0), ratio=(0.75, 1.5), hflip=hflip)
    for seed in range(8):
        views = []
        for image, more in ((Image.fromarray(pixels), ()), (BandImage(pixels), (FORM,))):
            torch.manual_seed(seed)
            views.append(crop_transform(crops, *more)(image))
        assert torch.equal(*views)


def tuning(**changes):
    options = {"aa": "none", "color_jitter": None, "crop": "none", "min_crop": 0.1, "hflip": False}
    options |= {"crop_ratio": None, "reprob": 0.0, "remode": "pixel", "recount": 1, **changes}
    return SimpleNamespace(**options)


def test_fine_tuning_normalises_16_bits():
    pixels = np.random.default_rng(0).integers(0, 65536, (8, 8, 6), dtype=np.uint16)
    mean, std = [0.1 * c for c in range(6)], [0.05 + 0.1 * c for c in range(6)]
    got = band_transform(tuning(), (8, 8), mean, std, FORM)(BandImage(pixels))
    expected = np.moveaxis(pixels, -1, 0) / 65535 - np.reshape(mean, (6, 1, 1))
    expected = torch.tensor(expected / np.reshape(std, (6, 1, 1)))
    torch.testing.assert_close(got.double(), expected, rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ({"aa": "rand-m9"}, "aa .*6 x uint16 pixels: add --aa none"),
        ({"color_jitter": 0.4}, "leave"),
    ],
)
def test_what_needs_rgb_names_the_flag(flag, words):
    with pytest.raises(ConfigError, match=words):
        band_transform(tuning(**flag), (8, 8), BANDS["mean"], BANDS["std"], FORM)


def test_other_channels_than_the_models_are_an_error(toy):
    images = open_images(toy / "data" / "val")
    with pytest.raises(
        DataError, match=r"images of 6 x uint16 pixels, and the model .* 3 channels"
    ):
        CenterBatches(images, (32, 32), batch_size=2, workers=0)


@pytest.mark.parametrize(
    "task",
    [
        "knn --k 3",
        "linear --epochs 8 --batch_size 6 --lr 1 --crop random",
        "finetune --epochs 3 --warmup_epochs 0 --batch_size 6 --lr 1e-3 --aa none",
    ],
)
def test_models_of_bands_are_evaluated(toy, task, tmp_path):
    command = f"{task} --checkpoint {toy / 'mae.pth'} --data_path {toy / 'data'} --device cpu "
    command += f"--num_workers 0 --output_dir {tmp_path} --precision fp32"
    assert cli.evaluate(command.split()) == 0
    assert json.loads((tmp_path / "results.json").read_text())["numbers"]["acc1"] > 90


def test_measures_of_16_bits_are_those_of_8():
    truth, shown = torch.randint(0, 256, (2, 2, 16, 16, 6), dtype=torch.uint8)
    deep = [(images.int() * 257).to(torch.uint16) for images in (shown, truth)]
    measures = quality(*deep)
    assert measures.keys() == {"mse", "psnr", "ssim"}  # FSIM is of one channel or three
    torch.testing.assert_close(measures, quality(shown, truth))
    with pytest.raises(ValueError, match="truth must be uint16, not uint8"):
        quality(deep[0], truth)
