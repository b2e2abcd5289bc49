"""Fixtures of the benchmarks' tests."""

import pytest
from PIL import Image

from fastimae.loaders import BetonWriter


@pytest.fixture(scope="session")
def jpegs(image_folder, tmp_path_factory):
    """Write the JPEGs of `image_folder` to a .beton."""
    path = tmp_path_factory.mktemp("beton") / "images.beton"
    with BetonWriter(path) as writer:
        for file in sorted(image_folder.rglob("*.jpg")):
            width, height = Image.open(file).size
            writer.append(file.read_bytes(), height=height, width=width, label=0)
    return path
