"""Sources of images, and no pictures of them."""

import pytest
from toy_images import save_gray

from fastimae import cli
from fastimae.pictures import reconstruction as reconstruct

OWN_DATASET = """
from torchvision.datasets import ImageFolder
from torchvision.transforms import ColorJitter

def plain():
    return ImageFolder("{0}")

def train():
    return ImageFolder("{0}", ColorJitter(0.5, 0.5))
"""
"""A user's datasets; the second has a transform that draws from torch's generator."""


@pytest.fixture(scope="module", autouse=True)
def _no_pictures():
    """Replace the picture, which has 48 parts: drawing it takes as long as 100 steps of these
    models."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reconstruct, "draw_grid", save_gray)
        yield


@pytest.fixture(scope="session")
def beton(image_folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("beton") / "images.beton"
    assert cli.convert([str(image_folder), str(path), "--workers", "1"]) == 0
    return path


@pytest.fixture(scope="module")
def own_datasets(image_folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("own") / "own.py"
    path.write_text(OWN_DATASET.format(image_folder))
    return path


@pytest.fixture(scope="module")
def source(image_folder, beton, own_datasets):
    return {
        "ffcv": f"--ffcv {beton}",
        "dali": f"--dali {beton}",
        "data_path": f"--data_path {image_folder}",
        "dataset": f"--dataset {own_datasets}:train",
    }
