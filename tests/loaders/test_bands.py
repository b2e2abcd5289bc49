"""Loaders of images with many channels or 16 bits: every decoder has the same batches."""

import functools
import sys

import numpy as np
import pytest
import torch
from bands import FORMS, make_images, write_beton
from PIL import Image

from fastimae.loaders import BetonReader, DataError, create_loader, native_library
from fastimae.loaders.images.bands import BandImage
from fastimae.loaders.images.crops import draw_windows
from fastimae.loaders.images.pixel_form import RGB8, PixelForm

COUNT, SIZE = 6, (24, 32)
RATIO = (3 / 4 * SIZE[1] / SIZE[0], 4 / 3 * SIZE[1] / SIZE[0])
SETTINGS = {"batch_size": 3, "input_size": SIZE, "mix_group": 3, "seed": 5, "num_workers": 0}
U16_5 = PixelForm(5, np.dtype("u2"))
BUILT = pytest.mark.skipif(native_library.load() is None, reason=native_library.why_missing())
BACK_ENDS = [
    *(pytest.param(name, marks=BUILT) for name in ("native-0", "native-2")),
    *("pillow-0", "pillow-2", "folder-0", "folder-1", "dataset-0"),
]


class Arrays:
    """A user's dataset of arrays, alternately [H, W, C] and [C, H, W]."""

    def __init__(self, images):
        self.images, self.targets = images, list(range(len(images)))

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        pixels = self.images[index]
        return pixels if index % 2 else torch.from_numpy(pixels).permute(2, 0, 1), index


def loader_of(back_end, images, form, tmp_path, **settings):
    """Make the loader for a name like "pillow-2": back end and number of workers."""
    name, workers = back_end.split("-")
    if name == "folder":
        for i, pixels in enumerate(images):
            np.save(tmp_path / f"{i}.npy", pixels if i % 2 else np.moveaxis(pixels, -1, 0))
        source = {"data_path": tmp_path}
    elif name == "dataset":
        source = {"dataset": Arrays(images)}
    else:
        path = write_beton(tmp_path / "x.beton", images, form)
        source = {"ffcv": path, "decoder": name}
    settings = {**SETTINGS, "in_chans": form.channels, **settings}
    return create_loader(**source, **{**settings, "num_workers": int(workers)})


def expected(pixels, key):
    """Crop and resize by the windows that an RGB image of this size gets."""
    windows, flip = draw_windows(np.array([key]), *([n] for n in pixels.shape[:2]), (0.2, 1), RATIO)
    top, left, height, width = windows[0]
    part = BandImage(pixels[top : top + height, left : left + width])
    resized = part.resize(SIZE[::-1]).pixels_HWC
    return resized[:, ::-1] if flip[0] else resized


images_of = functools.cache(lambda form: make_images(form, COUNT))
expected_of = functools.cache(lambda form, index, key: expected(images_of(form)[index], key))


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("back_end", BACK_ENDS)
def test_crops_are_those_of_the_same_windows(back_end, form, tmp_path):
    with loader_of(back_end, images_of(form), form, tmp_path) as loader:
        batches = list(loader)
        example = loader.example().images
        fixed = loader.fixed_batch(COUNT)
    assert len(batches) == 2
    for batch in [*batches, fixed]:
        assert batch.images.dtype == getattr(torch, form.dtype.name)
        assert batch.images.is_contiguous()
        for image, index, key in zip(batch.images, batch.index, batch.key, strict=True):
            assert np.array_equal(image.numpy(), expected_of(form, int(index), int(key)))
    assert (example.dtype, example.shape) == (batch.images.dtype, batches[0].images.shape)


@BUILT
def test_gray_of_8_bits(tmp_path):
    form = PixelForm(1, RGB8.dtype)
    images = make_images(form, COUNT)
    with loader_of("native-0", images, form, tmp_path) as loader:
        for batch in loader:
            for image, index, key in zip(batch.images, batch.index, batch.key, strict=True):
                assert np.array_equal(image.numpy(), expected(images[index], int(key)))


@pytest.mark.parametrize("back_end", ["folder-0", "dataset-0"])
def test_images_of_other_forms_are_replaced_and_named(back_end, tmp_path):
    images = make_images(U16_5, COUNT)
    images[3] = images[3].astype(np.uint8)
    images[4] = images[4].astype(np.uint8)
    with loader_of(back_end, images, U16_5, tmp_path) as loader:
        used = {int(i) for batch in loader for i in batch.index}
        bad = loader.bad
    assert used == {0, 1, 2, 5}
    assert bad[3] == "5 x uint8 where the data set has 5 x uint16"


def test_damaged_arrays_are_replaced(tmp_path):
    images = make_images(U16_5, COUNT)
    with loader_of("folder-0", images, U16_5, tmp_path) as loader:
        (tmp_path / "2.npy").write_bytes((tmp_path / "2.npy").read_bytes()[:200])
        assert 2 not in {int(i) for batch in loader for i in batch.index}
        assert "damaged .npy" in loader.bad[2]


@pytest.mark.parametrize("decoder", ["pillow", pytest.param("native", marks=BUILT)])
def test_damaged_samples_are_replaced(decoder, tmp_path):
    path = write_beton(tmp_path / "x.beton", make_images(U16_5, COUNT), U16_5)
    position, _ = BetonReader(path).region(1)
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
    with create_loader(ffcv=path, decoder=decoder, **{**SETTINGS, "in_chans": 5}) as loader:
        list(loader)
        assert "checksum" in loader.bad[1]


def test_in_chans_that_no_file_has(tmp_path):
    with pytest.raises(DataError, match="--in_chans is 7: give --in_chans 5"):
        loader_of("folder-0", make_images(U16_5, 2), U16_5, tmp_path, in_chans=7)


def test_a_folder_that_cannot_be_read_says_why(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tifffile", None)
    (tmp_path / "a.tif").write_bytes(b"II*\0" + bytes(20))
    with pytest.raises(DataError, match=r"a\.tif: tifffile is needed .*'fastimae\[bands\]'"):
        create_loader(data_path=tmp_path, **{**SETTINGS, "in_chans": 5})


@pytest.mark.parametrize("back_end", ["pillow-0", "folder-0", "dataset-0"])
def test_wrong_in_chans_is_one_error(back_end, tmp_path):
    images = make_images(U16_5, COUNT)
    with pytest.raises(DataError, match=r"5 x uint16 pixels.* is 3: give --in_chans 5"):
        loader_of(back_end, images, U16_5, tmp_path, in_chans=3)


def test_in_chans_of_ordinary_images_is_1_or_3(tmp_path):
    Image.new("RGB", (30, 30)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="3 x uint8 pixels, and --in_chans is 6: give --in_chans 3"):
        create_loader(data_path=tmp_path, **{**SETTINGS, "in_chans": 6})


@pytest.mark.parametrize(
    ("settings", "flag"),
    [({"decoder": "ffcv"}, "--decoder ffcv"), ({"dali_share": 0.5}, "--dali_share")],
)
def test_other_decoders_are_refused(settings, flag, tmp_path):
    path = write_beton(tmp_path / "x.beton", make_images(U16_5, COUNT), U16_5)
    with pytest.raises(DataError, match=f"{flag} reads ordinary images"):
        create_loader(ffcv=path, **{**SETTINGS, "in_chans": 5, **settings})
    with pytest.raises(DataError, match="--dali reads ordinary images"):
        create_loader(dali=path, **{**SETTINGS, "in_chans": 5})


def test_transforms_get_arrays(tmp_path):
    images, seen = make_images(U16_5, COUNT), []

    def invert(crop):
        seen.append(crop)
        return 65535 - crop

    path = write_beton(tmp_path / "x.beton", images, U16_5)
    settings = {**SETTINGS, "in_chans": 5}
    with create_loader(ffcv=path, transform=invert, **settings) as loader:
        batch = next(iter(loader))
    assert all(type(crop) is np.ndarray and crop.dtype == np.uint16 for crop in seen)
    for image, index, key in zip(batch.images, batch.index, batch.key, strict=True):
        assert np.array_equal(image.numpy(), 65535 - expected(images[index], int(key)))


def test_synthetic_images_have_as_many_channels():
    settings = {**SETTINGS, "in_chans": 6, "synthetic_samples": 6}
    with create_loader(synthetic=True, **settings) as loader:
        assert next(iter(loader)).images.shape == (3, *SIZE, 6)
