"""Scenes: kinds of masks, turned images, broken files, and what does not fit."""

import pickle
import shutil

import numpy as np
import pytest
from PIL import Image
from scene_pairs import refused, write_pair
from shape_scenes import save_mask, write_segmentation

from fastimae.evaluate.segmentation.scenes import open_scenes
from fastimae.loaders.errors import DataError
from fastimae.loaders.image_location import SkipImage
from fastimae.loaders.images.limits import limited_to

VALUES = np.array([[0, 1, 2, 255], [3, 3, 0, 1]], np.uint8)


def as_palette(values):
    image = Image.fromarray(values)
    image.putpalette([255 - n // 3 for n in range(768)])
    return image


@pytest.mark.parametrize(
    "stored",
    [
        Image.fromarray,
        as_palette,
        lambda values: Image.fromarray(values.astype(np.uint16)),
        lambda values: Image.fromarray(np.dstack([values] * 3)),
        lambda values: Image.fromarray(np.dstack([values] * 3 + [values * 0 + 9])),
        lambda values: Image.merge("LA", [Image.fromarray(values), Image.new("L", (4, 2), 3)]),
    ],
    ids=["gray", "palette", "16 bits", "equal colours", "with alpha", "gray with alpha"],
)
def test_masks_may_be_stored_in_many_ways(tmp_path, stored):
    root = write_pair(tmp_path, VALUES)
    stored(VALUES).save(root / "train/masks/a.png")
    np.testing.assert_array_equal(open_scenes(root, "train").read(0)[1], VALUES)


LOSSY = {
    "a JPEG": ("JPEG", {}),
    "a lossy WebP": ("WEBP", {"quality": 100}),
    "a TIFF with jpeg compression": ("TIFF", {"compression": "jpeg"}),
}


@pytest.mark.parametrize("said", LOSSY)
def test_lossy_masks_are_refused_whatever_they_are_called(tmp_path, said):
    root, (kind, how) = write_pair(tmp_path, VALUES), LOSSY[said]
    Image.fromarray(VALUES).save(root / "train/masks/a.png", kind, **how)
    wanted = f"ROOT/train/masks/a.png is {said}, which changes class numbers: write masks as PNG"
    assert refused(root) == wanted


@pytest.mark.parametrize("end", ["webp", "tif", "bmp"])
def test_lossless_masks_are_read(tmp_path, end):
    """With EXIF a WebP is of the extended form."""
    root = write_pair(tmp_path, VALUES)
    (root / "train/masks/a.png").unlink()
    exif = Image.Exif()
    exif[0x0112] = 1
    how = {"lossless": True, "exif": exif.tobytes()} if end == "webp" else {}
    Image.fromarray(VALUES).save(root / f"train/masks/a.{end}", **how)
    np.testing.assert_array_equal(open_scenes(root, "train").read(0)[1], VALUES)


def test_masks_of_one_bit_have_two_classes(tmp_path):
    root = write_pair(tmp_path, VALUES)
    Image.fromarray(VALUES == 1).save(root / "train/masks/a.png")
    scenes = open_scenes(root, "train")
    assert scenes.classes == ["class 0", "class 1"]
    np.testing.assert_array_equal(scenes.read(0)[1], VALUES == 1)


@pytest.mark.parametrize("how", range(1, 9))
def test_an_image_is_turned_only_if_its_mask_is(tmp_path, how):
    """EXIF orientation is not applied in pre-training. A mask drawn on the turned image shows by
    its size that it was."""
    stored = np.zeros((16, 32, 3), np.uint8)
    stored[:8, :8] = 250  # the top left corner of the stored image
    image, exif = Image.fromarray(stored), Image.Exif()
    exif[0x0112] = how
    write_pair(tmp_path / "plain", np.eye(16, 32, dtype=np.uint8), image=image, exif=exif)
    plain, _ = open_scenes(tmp_path / "plain", "train").read(0)
    assert np.asarray(plain)[2, 2, 0] > 200
    if how < 5:
        return
    write_pair(tmp_path / "turned", np.eye(32, 16, dtype=np.uint8), image=image, exif=exif)
    turned, mask = open_scenes(tmp_path / "turned", "train").read(0)
    assert turned.size == mask.shape[::-1] == (16, 32)
    corner = {5: (2, 2), 6: (2, -3), 7: (-3, -3), 8: (-3, 2)}[how]
    assert np.asarray(turned)[corner][0] > 200


def test_broken_files_are_skipped(tmp_path):
    write_segmentation(tmp_path, train=4, val=1)
    (tmp_path / "train/images/train_000.jpg").write_bytes(b"\xff\xd8\xff no image")
    (tmp_path / "train/masks/train_001.png").write_bytes(b"")
    whole = (tmp_path / "train/images/train_002.jpg").read_bytes()
    (tmp_path / "train/images/train_002.jpg").write_bytes(whole[: len(whole) // 2])
    scenes = open_scenes(tmp_path, "train")
    for index in range(3):
        with pytest.raises(SkipImage):
            scenes.read(index)
    with limited_to(64 * 64 - 1), pytest.raises(SkipImage, match="--max_pixels 4095"):
        scenes.read(3)
    assert scenes.read(3)[0].size == (64, 64)


def test_sizes_must_be_equal(tmp_path):
    write_pair(tmp_path, np.eye(5, 7, dtype=np.uint8), image=Image.new("RGB", (6, 5)))
    assert refused(tmp_path) == (
        "ROOT/train/images/a.jpg has 6 x 5 pixels, and ROOT/train/masks/a.png 7 x 5: a mask has "
        "the size of its image"
    )


def test_numbers_beyond_the_classes_are_named(tmp_path):
    root = write_pair(tmp_path / "data", VALUES)
    (root / "classes.txt").write_text("a\nb\nc\n")
    assert refused(root) == (
        "ROOT/train/masks/a.png has the value 3, and there are 3 classes, 0 to 2 (255: does not "
        "count): name all of them with --classes"
    )
    write_segmentation(tmp_path / "ade", "ade20k", train=1, val=1)
    (tmp_path / "names.txt").write_text("a\nb\n")
    assert "value" in (found := refused(tmp_path / "ade", split="val",
                                        classes=tmp_path / "names.txt"))  # fmt: skip
    assert "2 classes, 1 to 2" in found


def test_a_number_beyond_the_classes_is_found_when_it_is_read(tmp_path):
    """Opening reads 16 masks; the others are checked when they come up."""
    for number in range(40):
        values = np.full((4, 4), 9 if number == 1 else number % 2, np.uint8)
        write_pair(tmp_path, values, name=f"{number:02d}")
    (tmp_path / "classes.txt").write_text("a\nb\n")
    scenes = open_scenes(tmp_path, "train")
    with pytest.raises(DataError, match=r"01.png has the value 9"):
        scenes.read(1)


def test_colours_are_no_class_numbers(tmp_path):
    root = write_pair(tmp_path, VALUES)
    colours = np.random.default_rng(0).integers(0, 2, (2, 4, 3), np.uint8) * 128
    Image.fromarray(colours).save(root / "train/masks/a.png")
    found = refused(root)
    assert "ROOT/train/masks/a.png has colours (RGB" in found
    assert "mask[(rgb == COLOUR).all(-1)] = NUMBER" in found


def test_fractions_are_no_class_numbers_and_negative_ones_do_not_count(tmp_path):
    """TIFF files hold both; 254 would be a class that is not there."""
    root = write_pair(tmp_path, VALUES)
    (root / "train/masks/a.png").unlink()
    numbers = np.array([[0, 1, 2, -1], [3, 3, -2, 255]], np.float32)
    path = root / "train/masks/a.tif"
    for dtype in (np.int32, np.float32):
        Image.fromarray(numbers.astype(dtype)).save(path)
        mask = open_scenes(root, "train").read(0)[1]
        np.testing.assert_array_equal(mask, np.where(numbers < 0, 255, numbers))
    for wrong in (0.5, np.nan):
        Image.fromarray(np.where(numbers == 1, np.float32(wrong), numbers)).save(path)
        assert "ROOT/train/masks/a.tif has fractions, not class numbers" in refused(root)


def test_a_mask_of_0_and_255_has_one_class(tmp_path):
    write_pair(tmp_path, np.where(VALUES > 1, 255, 0).astype(np.uint8))
    assert "such as 1, not 255, for a foreground" in refused(tmp_path)


def test_the_digest_follows_contents_and_not_the_place(tmp_path):
    first = open_scenes(write_segmentation(tmp_path / "a"), "train")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    second = open_scenes(tmp_path / "b", "train")
    assert first.digest == second.digest == pickle.loads(pickle.dumps(second)).digest
    assert first.digest != open_scenes(tmp_path / "a", "val").digest
    path = tmp_path / "b/train/masks/train_003.png"
    save_mask(1 - np.eye(64, dtype=np.uint8), path)
    assert open_scenes(tmp_path / "b", "train").digest != first.digest
    (tmp_path / "a/classes.txt").write_text("a\nb\nc\nd\ne\n")
    assert open_scenes(tmp_path / "a", "train").digest != first.digest


def test_the_digest_follows_the_sizes_of_all_files(tmp_path):
    """The contents of 16 scenes count, so of most large data sets only names and sizes."""
    for number in range(40):
        write_pair(tmp_path, VALUES, name=f"{number:02d}")
    before = open_scenes(tmp_path, "train").digest
    save_mask(np.eye(2, 4, dtype=np.uint8), tmp_path / "train/masks/01.png", palette=True)
    assert open_scenes(tmp_path, "train").digest != before


def test_neither_0_nor_255_counts_in_ade20k(tmp_path):
    write_segmentation(tmp_path, "ade20k", train=1, val=1)
    values = np.arange(64 * 64, dtype=np.uint8).reshape(64, 64) % 151
    values[0] = 255
    save_mask(values, tmp_path / "ADEChallengeData2016/annotations/training/train_000.png")
    expected = np.where((values == 0) | (values == 255), 255, values.astype(int) - 1)
    np.testing.assert_array_equal(open_scenes(tmp_path, "train").read(0)[1], expected)
