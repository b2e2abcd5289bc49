"""EXIF orientation: no reader rotates an image, like torchvision's ImageFolder."""

import io

import numpy as np
import pytest
from back_ends import WORKING
from PIL import Image, ImageOps

from fastimae.evaluate.images import open_images
from fastimae.loaders import BetonReader
from fastimae.loaders.convert.run import ConvertOptions, convert

TAG, TURN = 0x0112, 6


@pytest.fixture(scope="module")
def turned(data, tmp_path_factory):
    """The data, where every file has a tag for a rotation by 90 degrees."""
    exif = Image.Exif()
    exif[TAG] = TURN
    payloads = []
    for payload in data.payloads:
        file = io.BytesIO()
        Image.open(io.BytesIO(payload)).save(file, "JPEG", quality="keep", exif=exif)
        payloads.append(file.getvalue())
    image = Image.open(io.BytesIO(payloads[1]))
    assert ImageOps.exif_transpose(image).size == image.size[::-1]
    files = type(data)(tmp_path_factory.mktemp("turned"))
    files.payloads = payloads
    return files.write()


@pytest.mark.parametrize("back_end", WORKING)
def test_loaders_do_not_apply_it(turned, back_end):
    with turned.loader(back_end) as loader:
        for batch in loader:
            for index, key, pixels in zip(batch.index, batch.key, batch.images, strict=True):
                expected = turned.reference(int(index), int(key), int(index))
                assert turned.shows(back_end, pixels, expected)
        assert loader.bad == {}


@pytest.mark.parametrize("form", ["folder", "beton"])
def test_evaluation_does_not_apply_it(turned, form):
    images = open_images(getattr(turned, form))
    for i in (0, 1, 30):
        plain = Image.open(io.BytesIO(turned.payloads[i])).convert("RGB")
        assert np.array_equal(np.asarray(images[i][0]), np.asarray(plain))


@pytest.mark.parametrize("settings", [{}, {"reencode": True}, {"mode": "raw"}], ids=str)
def test_the_converter_does_not_apply_it(turned, tmp_path, settings):
    """Files that are passed through keep the tag, which is ignored; encoded ones have none."""
    out = tmp_path / "a.beton"
    convert(ConvertOptions(src=str(turned.folder), out=out, workers=2, limit=10, **settings))
    sizes = {Image.open(io.BytesIO(payload)).size for payload in turned.payloads}
    with BetonReader(out) as reader:
        assert set(zip(reader.widths.tolist(), reader.heights.tolist(), strict=True)) <= sizes
        if settings.get("mode") != "raw":
            tags = [Image.open(io.BytesIO(reader.read(i))).getexif().get(TAG) for i in range(10)]
            assert set(tags) == ({None} if settings else {TURN})
