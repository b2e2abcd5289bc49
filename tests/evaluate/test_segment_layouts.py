"""The layouts of scenes with masks: what is found where, and what is said if it is not."""

import shutil

import numpy as np
import pytest
from PIL import Image
from scene_pairs import refused, write_pair
from shape_scenes import (
    CLASSES,
    LAYOUTS,
    make_scene,
    save_image,
    save_mask,
    write_segmentation,
)

from fastimae.evaluate.segmentation import scenes as scenes_file
from fastimae.evaluate.segmentation.class_names import ADE20K, VOC
from fastimae.evaluate.segmentation.scenes import open_scenes

NUMBERS = {"folders": (0, CLASSES), "images_first": (0, CLASSES), "voc": (0, VOC),
           "ade20k": (0, ADE20K)}  # fmt: skip
VALUES = np.array([[0, 1, 2, 255], [3, 3, 0, 1]], np.uint8)


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
    write_pair(tmp_path, np.array([[0, 4], [255, 2]], np.uint8))
    write_pair(tmp_path, np.array([[0, 1], [0, 0]], np.uint8), split="val")
    assert open_scenes(tmp_path, "val").classes == [f"class {n}" for n in range(5)]
    shutil.rmtree(tmp_path / "train")
    assert open_scenes(tmp_path, "val").classes == ["class 0", "class 1"]


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


def test_too_many_classes(tmp_path):
    write_pair(tmp_path, np.full((4, 4), 300, np.uint16))
    assert "numbers up to 300" in refused(tmp_path)
    (tmp_path / "classes.txt").write_text("\n".join(map(str, range(256))))
    assert "has 256 classes: masks have at most 255" in refused(tmp_path)


def test_a_mask_is_no_jpeg(tmp_path):
    write_pair(tmp_path, VALUES)
    (tmp_path / "train/masks/a.png").rename(tmp_path / "train/masks/a.jpg")
    assert "a.jpg is a JPEG, which changes class numbers" in refused(tmp_path)


def test_two_images_of_one_name(tmp_path):
    write_pair(tmp_path, VALUES)
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
    write_pair(tmp_path / "data", VALUES)
    (tmp_path / "names.txt").write_text(text)
    assert "--classes" in refused(tmp_path / "data", classes=tmp_path / "names.txt")


def test_masks_are_counted_once_for_both_splits(tmp_path, monkeypatch):
    read = []
    original = scenes_file.read_values
    monkeypatch.setattr(
        scenes_file, "read_values", lambda path: read.append(path) or original(path)
    )
    write_pair(tmp_path, VALUES)
    write_pair(tmp_path, VALUES, split="val")
    open_scenes(tmp_path, "train"), open_scenes(tmp_path, "val")
    assert [path.count("train") for path in read] == [1, 1, 0]  # counted, train read, val read
