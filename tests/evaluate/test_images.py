"""Images for evaluation: the same from every source, cropped as by torchvision, no crash."""

import json
import pickle
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from fastimae.evaluate.center_batches import CenterBatches, center_view
from fastimae.evaluate.images import open_images
from fastimae.evaluate.labels.class_names import match_training
from fastimae.loaders import BetonWriter, create_loader
from fastimae.loaders.errors import DataError


@pytest.fixture
def beton(image_folder, tmp_path):
    """The image folder as a .beton file with its manifest."""
    path = tmp_path / "images.beton"
    folders = sorted(image_folder.iterdir())
    with BetonWriter(path) as writer:
        for label, folder in enumerate(folders):
            for file in sorted(folder.iterdir()):
                width, height = Image.open(file).size
                writer.append(file.read_bytes(), height=height, width=width, label=label)
    manifest = {"class_names": [folder.name for folder in folders]}
    path.with_name("images.beton.json").write_text(json.dumps(manifest))
    return path


def view_of(image, size):
    """torchvision's evaluation view of a PIL image, uint8 [size, size, C]."""
    steps = [
        transforms.Resize(size * 256 // 224, InterpolationMode.BICUBIC),
        transforms.CenterCrop(size),
    ]
    return np.asarray(transforms.Compose(steps)(image))


def test_a_beton_and_its_folder_are_the_same_images(beton, image_folder):
    file, folder = open_images(beton), open_images(image_folder)
    assert len(file) == len(folder) == 48
    assert file.classes == folder.classes == [f"class_{n}" for n in range(4)]
    np.testing.assert_array_equal(file.labels, folder.labels)
    assert file.labels.dtype == np.int64 and set(file.labels) == set(range(4))
    for index in (0, 17, 47):
        (a, label), (b, same) = file[index], folder[index]
        assert label == same == file.labels[index] and a.mode == b.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    copy = pickle.loads(pickle.dumps(file))
    np.testing.assert_array_equal(np.asarray(copy[3][0]), np.asarray(file[3][0]))


def test_fingerprints_tell_contents_apart(beton, image_folder, tmp_path):
    prints = {open_images(path).fingerprint for path in (beton, image_folder)}
    assert open_images(image_folder).fingerprint in prints
    flat = tmp_path / "flat"
    flat.mkdir()
    for colour in (10, 200):
        Image.new("RGB", (8, 8 + colour), (colour, 0, 0)).save(flat / "one.png")
        prints.add(open_images(flat).fingerprint)
    assert len(prints) == 4


def test_a_flat_folder_has_no_labels(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "gray.png")
    images = open_images(tmp_path)
    assert images.labels.tolist() == [-1] and images.classes is None
    assert images[0][0].mode == "RGB"
    with pytest.raises(DataError, match="without labels"):
        match_training(images, images)
    with pytest.raises(DataError, match="no such folder"):
        open_images(tmp_path / "none")


@pytest.mark.parametrize("shape", [(300, 400), (401, 263), (40, 90), (224, 224), (57, 57)])
@pytest.mark.parametrize("size", [224, 56])
def test_the_view_is_torchvisions(shape, size):
    pixels = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    expected = pixels if shape == (size, size) else view_of(image, size)
    np.testing.assert_array_equal(center_view(image, (size, size)), expected)


def test_a_view_that_is_not_square_shows_the_middle():
    ramp = np.broadcast_to(np.linspace(0, 255, 200)[None, :, None], (100, 200, 3))
    view = center_view(Image.fromarray(ramp.astype(np.uint8)), (32, 48)).astype(float)
    assert view.shape == (32, 48, 3)
    # Height decides: 100 rows become 36, so 48 columns show 48 / 36 x 100 of the 200.
    assert view[..., 0].mean() == pytest.approx(127.5, abs=1)
    assert np.ptp(view[0, :, 0]) == pytest.approx(255 * (48 / 36 * 100) / 200, rel=0.05)


def test_gray_views_have_one_channel():
    image = Image.new("RGB", (32, 32), (255, 0, 0))
    view = center_view(image, (32, 32), channels=1)
    assert view.shape == (32, 32, 1) and set(view.flat) == {76}  # ITU-R 601: 0.299 x 255


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_come_in_order_whoever_decodes(image_folder, workers):
    images = open_images(image_folder)
    batches = CenterBatches(images, (32, 32), batch_size=20, workers=workers)
    shown = list(batches)
    assert len(batches) == 3 and [len(labels) for _, labels in shown] == [20, 20, 8]
    pixels, labels = (torch.cat(part) for part in zip(*shown, strict=True))
    assert pixels.dtype == torch.uint8 and labels.tolist() == images.labels.tolist()
    for index in (0, 25, 47):
        np.testing.assert_array_equal(pixels[index], view_of(images[index][0], 32))
    some = CenterBatches(images, (32, 32), batch_size=8, workers=workers, indices=[40, 3, 3])
    ((picked, few),) = some
    assert torch.equal(picked, pixels[[40, 3, 3]]) and few.tolist() == [3, 0, 0]


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_images_are_left_out_and_counted(tmp_path, workers):
    for number in range(5):
        image = Image.new("RGB", (64, 64), (number * 40, 0, 0))
        (tmp_path / f"class_{number}").mkdir()
        image.save(tmp_path / f"class_{number}" / "x.png")
    whole = (tmp_path / "class_1" / "x.png").read_bytes()
    (tmp_path / "class_1" / "x.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "class_3" / "x.png").write_bytes(b"no image")
    images = open_images(tmp_path)
    batches = CenterBatches(images, (64, 64), batch_size=1, workers=workers)
    for _ in range(2):
        shown = [(pixels[0, 0, 0, 0].item(), labels.item()) for pixels, labels in batches]
        assert shown == [(0, 0), (80, 2), (160, 4)]
        assert sorted(batches.bad) == [1, 3]


def test_a_folder_may_be_called_like_a_file(image_folder, tmp_path):
    named = tmp_path / "images.ffcv"
    shutil.copytree(image_folder, named)
    assert open_images(named).classes == open_images(image_folder).classes
    with pytest.raises(DataError, match=r"--cache ram keeps a \.beton"):
        create_loader(dali=named, cache="ram", batch_size=4)
