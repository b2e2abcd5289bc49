"""Scenes with masks: the three layouts, kinds of masks, and what is said about bad data."""

import pickle
import shutil

import numpy as np
import pytest
from PIL import Image
from shape_scenes import CLASSES, LAYOUTS, make_scene, save_image, save_mask, write_segmentation

from fastimae.evaluate.segmentation import scenes as scenes_file
from fastimae.evaluate.segmentation.class_names import ADE20K, VOC
from fastimae.evaluate.segmentation.scenes import open_scenes
from fastimae.loaders.errors import DataError
from fastimae.loaders.image_location import SkipImage
from fastimae.loaders.images.limits import limited_to

NUMBERS = {"folders": (0, CLASSES), "images_first": (0, CLASSES), "voc": (0, VOC),
           "ade20k": (0, ADE20K)}  # fmt: skip


def one_pair(root, mask, *, image=None, name="a", split="train", **how):
    """Write a scene of one image and its mask as folders; the image is black by default."""
    image = image or Image.new("RGB", mask.shape[::-1])
    save_image(image, root / split / "images" / f"{name}.jpg", **how)
    save_mask(mask, root / split / "masks" / f"{name}.png")
    return root


def refused(root, split="train", **how):
    """Return the one line that opening the scenes fails with."""
    with pytest.raises(DataError) as caught:
        open_scenes(root, split, **how)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(root), "ROOT")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("split", ["train", "val"])
def test_layouts_are_recognised_and_have_the_same_classes(tmp_path, layout, split):
    write_segmentation(tmp_path, layout, train=3, val=2)
    scenes = open_scenes(tmp_path, split)
    assert scenes.classes == list(NUMBERS[layout][1])
    assert len(scenes) == {"train": 3, "val": 2}[split]
    for index in range(len(scenes)):
        image, mask = scenes.read(index)
        truth = make_scene(index + (10_000 if split == "val" else 0))
        assert scenes.name(index) == f"{split}_{index:03d}"
        assert np.abs(np.asarray(image, float) - np.asarray(truth.image)).mean() < 12
        counted = mask != 255
        np.testing.assert_array_equal(mask[counted], truth.mask[counted])
        assert counted.all() == (layout in ("folders", "images_first"))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_named_layout_is_the_only_one_that_is_tried(tmp_path, layout):
    write_segmentation(tmp_path, layout, train=2, val=1)
    name = "folders" if layout == "images_first" else layout
    assert len(open_scenes(tmp_path, "train", name)) == 2
    other = "voc" if name != "voc" else "ade20k"
    assert "looked for" in refused(tmp_path, layout=other)


def test_the_folder_inside_an_archive_s_may_be_given(tmp_path):
    write_segmentation(tmp_path, "voc", train=1, val=1)
    write_segmentation(tmp_path, "ade20k", train=1, val=1)
    for inner in ("VOCdevkit", "VOCdevkit/VOC2012", "ADEChallengeData2016"):
        assert len(open_scenes(tmp_path / inner, "val")) == 1


def test_masks_may_be_called_annotations_or_labels_and_be_in_subfolders(tmp_path):
    for name in ("annotations", "labels"):
        root = tmp_path / name
        for city in ("x", "y"):
            save_image(Image.new("RGB", (9, 9)), root / "images/val" / city / "1.0.jpg")
            save_mask(np.eye(9, dtype=np.uint8), root / name / "val" / city / "1.0.png")
        scenes = open_scenes(root, "val")
        assert [scenes.name(0), scenes.name(1)] == ["x/1.0", "y/1.0"]


def test_the_augmented_list_of_voc_is_used_if_its_masks_are_there(tmp_path):
    write_segmentation(tmp_path, "voc", train=2, val=1)
    home = tmp_path / "VOCdevkit/VOC2012"
    for split, index in (("train", 0), ("train", 1), ("val", 0)):
        save_mask(np.full((64, 64), 7, np.uint8),
                  home / f"SegmentationClassAug/{split}_{index:03d}.png")  # fmt: skip
    assert len(open_scenes(tmp_path, "train")) == 2
    lines = ("/JPEGImages/train_000.jpg /SegmentationClassAug/train_000.png", "val_000", "")
    (home / "ImageSets/Segmentation/trainaug.txt").write_text("\n".join(lines))
    scenes = open_scenes(tmp_path, "train")
    assert [scenes.name(0), scenes.name(1), "trainaug.txt" in scenes.kind] == [
        "train_000", "val_000", True
    ]  # fmt: skip
    assert (scenes.read(1)[1] == 7).all()
    assert not (open_scenes(tmp_path, "val").read(0)[1] == 7).all()


def test_names_of_ade20k_are_read_from_its_table(tmp_path):
    write_segmentation(tmp_path, "ade20k", train=1, val=1)
    rows = ["Idx\tRatio\tTrain\tVal\tStuff\tName"]
    rows += [f"{n}\t0.1\t1\t1\t0\tthing {n}, object {n}" for n in range(1, 151)]
    (tmp_path / "ADEChallengeData2016/objectInfo150.txt").write_text("\n".join(rows) + "\n")
    scenes = open_scenes(tmp_path, "train")
    assert scenes.classes == [f"thing {n}" for n in range(1, 151)]


def test_shipped_names_are_as_many_as_the_data_sets_have():
    assert [len(VOC), len(ADE20K), len(set(ADE20K))] == [21, 150, 150]
    assert [VOC[15], ADE20K[0], ADE20K[12], ADE20K[149]] == ["person", "wall", "person", "flag"]


def test_a_file_of_names_says_how_many_classes_there_are(tmp_path):
    write_segmentation(tmp_path / "data", train=1, val=1)
    names = tmp_path / "names.txt"
    names.write_text("\ufeffnothing\nround \nsquare\r\nwith 3 corners\nnever seen\n\n", "utf-8")
    scenes = open_scenes(tmp_path / "data", "val", classes=names)
    assert scenes.classes == ["nothing", "round", "square", "with 3 corners", "never seen"]
    (tmp_path / "data/classes.txt").unlink()
    assert open_scenes(tmp_path / "data", "val", classes=names).classes == scenes.classes


def test_without_names_the_training_masks_are_counted(tmp_path):
    one_pair(tmp_path, np.array([[0, 4], [255, 2]], np.uint8))
    one_pair(tmp_path, np.array([[0, 1], [0, 0]], np.uint8), split="val")
    assert open_scenes(tmp_path, "val").classes == [f"class {n}" for n in range(5)]
    shutil.rmtree(tmp_path / "train")
    assert open_scenes(tmp_path, "val").classes == ["class 0", "class 1"]


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
    root = one_pair(tmp_path, VALUES)
    stored(VALUES).save(root / "train/masks/a.png")
    np.testing.assert_array_equal(open_scenes(root, "train").read(0)[1], VALUES)


def test_masks_of_one_bit_have_two_classes(tmp_path):
    root = one_pair(tmp_path, VALUES)
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
    one_pair(tmp_path / "plain", np.eye(16, 32, dtype=np.uint8), image=image, exif=exif)
    plain, _ = open_scenes(tmp_path / "plain", "train").read(0)
    assert np.asarray(plain)[2, 2, 0] > 200
    if how < 5:
        return
    one_pair(tmp_path / "turned", np.eye(32, 16, dtype=np.uint8), image=image, exif=exif)
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


def test_images_without_masks_are_counted_and_named(tmp_path):
    write_segmentation(tmp_path, train=6, val=1)
    for number in (1, 3):
        (tmp_path / f"train/masks/train_00{number}.png").unlink()
    assert refused(tmp_path) == (
        "ROOT/train/images: 2 of 6 images have no mask (train_001, train_003): add train_001.png "
        "to ROOT/train/masks, or remove them"
    )


def test_masks_without_images_are_counted(tmp_path, caplog):
    write_segmentation(tmp_path, train=3, val=1)
    (tmp_path / "train/images/train_001.jpg").unlink()
    assert len(open_scenes(tmp_path, "train")) == 2
    assert "1 masks have no image" in caplog.text


def test_a_listed_image_that_is_missing_is_named(tmp_path):
    write_segmentation(tmp_path, "voc", train=2, val=1)
    (tmp_path / "VOCdevkit/VOC2012/JPEGImages/train_001.jpg").unlink()
    assert "1 of 2 images are not in" in refused(tmp_path)
    assert "(train_001)" in refused(tmp_path)


def test_sizes_must_be_equal(tmp_path):
    one_pair(tmp_path, np.eye(5, 7, dtype=np.uint8), image=Image.new("RGB", (6, 5)))
    assert refused(tmp_path) == (
        "ROOT/train/images/a.jpg has 6 x 5 pixels, and ROOT/train/masks/a.png 7 x 5: a mask has "
        "the size of its image"
    )


def test_numbers_beyond_the_classes_are_named(tmp_path):
    root = one_pair(tmp_path / "data", VALUES)
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
        one_pair(tmp_path, values, name=f"{number:02d}")
    (tmp_path / "classes.txt").write_text("a\nb\n")
    scenes = open_scenes(tmp_path, "train")
    with pytest.raises(DataError, match=r"01.png has the value 9"):
        scenes.read(1)


def test_colours_are_no_class_numbers(tmp_path):
    root = one_pair(tmp_path, VALUES)
    colours = np.random.default_rng(0).integers(0, 2, (2, 4, 3), np.uint8) * 128
    Image.fromarray(colours).save(root / "train/masks/a.png")
    found = refused(root)
    assert "ROOT/train/masks/a.png has colours (RGB" in found
    assert "mask[(rgb == COLOUR).all(-1)] = NUMBER" in found


def test_a_mask_of_0_and_255_has_one_class(tmp_path):
    one_pair(tmp_path, np.where(VALUES > 1, 255, 0).astype(np.uint8))
    assert "such as 1, not 255, for a foreground" in refused(tmp_path)


def test_too_many_classes(tmp_path):
    one_pair(tmp_path, np.full((4, 4), 300, np.uint16))
    assert "numbers up to 300" in refused(tmp_path)
    (tmp_path / "classes.txt").write_text("\n".join(map(str, range(256))))
    assert "has 256 classes: masks have at most 255" in refused(tmp_path)


def test_a_mask_is_no_jpeg(tmp_path):
    one_pair(tmp_path, VALUES)
    (tmp_path / "train/masks/a.png").rename(tmp_path / "train/masks/a.jpg")
    assert "a.jpg is a JPEG, which changes class numbers" in refused(tmp_path)


def test_two_images_of_one_name(tmp_path):
    one_pair(tmp_path, VALUES)
    Image.new("RGB", (4, 2)).save(tmp_path / "train/images/a.png")
    assert "have the same name" in refused(tmp_path)


def test_an_empty_split_and_a_missing_one(tmp_path):
    (tmp_path / "train/images").mkdir(parents=True)
    (tmp_path / "train/masks").mkdir()
    assert refused(tmp_path) == "ROOT/train/images has no images"
    assert refused(tmp_path, split="val") == (
        "--data_path ROOT has no val split, only train/images for train: add val/images with "
        "val/masks, or images/val with masks/val"
    )


def test_an_unknown_layout_says_what_was_looked_for(tmp_path):
    (tmp_path / "pictures").mkdir()
    found = refused(tmp_path, flag="--data")
    assert found.startswith("--data ROOT has no images with masks: looked for images/training")
    assert "JPEGImages with SegmentationClass" in found
    assert "images/train with masks/train" in found
    assert "there is no such folder" in refused(tmp_path / "nowhere")


@pytest.mark.parametrize("text", ["a\n\nb\n", "", "a\nb\na\n"])
def test_names_that_cannot_be_classes(tmp_path, text):
    one_pair(tmp_path / "data", VALUES)
    (tmp_path / "names.txt").write_text(text)
    assert "--classes" in refused(tmp_path / "data", classes=tmp_path / "names.txt")


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


def test_masks_are_counted_once_for_both_splits(tmp_path, monkeypatch):
    read = []
    original = scenes_file.read_values
    monkeypatch.setattr(
        scenes_file, "read_values", lambda path: read.append(path) or original(path)
    )
    one_pair(tmp_path, VALUES)
    one_pair(tmp_path, VALUES, split="val")
    open_scenes(tmp_path, "train"), open_scenes(tmp_path, "val")
    assert [path.count("train") for path in read] == [1, 1, 0]  # counted, train read, val read
