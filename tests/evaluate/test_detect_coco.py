"""COCO data: what is read, from which layouts, and what is said of files that cannot be used."""

import json
import logging
import pickle
import shutil

import numpy as np
import pytest
from PIL import Image
from shape_scenes import CATEGORIES, make_scene, write_coco

pytest.importorskip("faster_coco_eval")

from fastimae.evaluate.detection.coco import open_coco
from fastimae.loaders.errors import DataError
from fastimae.loaders.image_location import SkipImage
from fastimae.loaders.images.limits import limited_to


@pytest.fixture
def root(tmp_path):
    return write_coco(tmp_path / "coco", size=(48, 64), train=3, val=2)


@pytest.fixture
def said(caplog, monkeypatch):
    """Return a function that returns all lines of the log."""
    monkeypatch.setattr(logging.getLogger("fastimae"), "propagate", True)
    caplog.set_level(logging.INFO)
    return lambda: [record.getMessage() for record in caplog.records]


def edit(root, change, split="train"):
    """Change the content of a split's annotation file by `change(content)`."""
    path = root / f"annotations/instances_{split}2017.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return path


def test_images_and_their_objects(root, said):
    scenes = open_coco(root, "train")
    assert scenes.classes == ["circle", "square", "triangle"]
    assert scenes.category_ids == list(CATEGORIES) and scenes.has_masks
    assert [scenes.image_id(index) for index in range(len(scenes))] == [100, 107, 114]
    for index in range(3):
        scene = make_scene(index, (48, 64))
        image, objects = scenes.read(index)
        assert image.mode == "RGB" and image.size == (64, 48)
        assert np.abs(np.asarray(image, int) - np.asarray(scene.image, int)).mean() < 6
        assert objects.boxes.tolist() == [list(each.box) for each in scene.instances]
        assert objects.labels.tolist() == [each.label for each in scene.instances]
        assert objects.boxes.dtype == np.float32 and not objects.crowd.any()
        for mask, each in zip(objects.masks, scene.instances, strict=True):
            # Pillow also draws the pixels that an edge touches.
            assert (mask & each.pixels).sum() > 0.7 * (mask | each.pixels).sum()
    count = sum(len(make_scene(index, (48, 64)).instances) for index in range(3))
    assert any(f"3 images, {count} objects of 3 classes (circle, square," in line
               for line in said())  # fmt: skip


def test_images_with_more_objects_than_are_learned_are_named(root, said):
    def repeat(content):
        (first, *_), number = content["annotations"], len(content["annotations"])
        content["annotations"] += [{**first, "id": number + more} for more in range(1, 102)]

    open_coco(root, "train")
    assert not any("more than 100 objects" in line for line in said())
    edit(root, repeat)
    open_coco(root, "train")
    assert any("1 images have more than 100 objects" in line for line in said())


def test_runs_are_exact_and_crowds_are_kept(tmp_path):
    scenes = open_coco(write_coco(tmp_path, size=48, train=3, val=2, crowd=True), "val")
    for index in range(2):
        expected = make_scene(10_000 + index, 48).instances
        objects = scenes.annotations(index)
        assert objects.crowd.tolist() == [False] * (len(expected) - 1) + [True]
        np.testing.assert_array_equal(objects.masks[-1], expected[-1].pixels)


def test_annotations_in_any_order_belong_to_their_images(root):
    before = open_coco(root, "train")
    edit(root, lambda content: content["annotations"].sort(key=lambda each: each["bbox"][0]))
    after = open_coco(root, "train")
    for index in range(3):
        mine, theirs = before.annotations(index), after.annotations(index)
        order = np.argsort(mine.boxes[:, 0], kind="stable")
        np.testing.assert_array_equal(mine.boxes[order], theirs.boxes)
        np.testing.assert_array_equal(mine.masks[order], theirs.masks)


def test_images_without_objects_are_for_validation_alone(root, said):
    def empty(content):
        first, second = content["images"][0]["id"], content["images"][1]["id"]
        content["annotations"] = [
            each | {"iscrowd": int(each["image_id"] == second)}
            for each in content["annotations"] if each["image_id"] != first
        ]  # fmt: skip

    edit(root, empty)
    shutil.copy(root / "annotations/instances_train2017.json", root / "all.json")
    train, val = open_coco(root, "train"), open_coco(root, "val", root / "all.json")
    assert len(train) == 1 and train.image_id(0) == 114 and len(val) == 3
    assert val.folder == root / "train2017", "annotations of a part of train, used as val"
    assert any(f"images are in {val.folder}" in line for line in said())
    assert len(val.annotations(0).labels) == 0
    np.testing.assert_array_equal(train.annotations(0).boxes, val.annotations(2).boxes)
    assert any("2 images without objects are not trained on" in line for line in said())


def test_what_is_left_out_is_counted(root, said):
    def spoil(content):
        one = content["annotations"][0]
        content["annotations"] += [
            one | {"bbox": [3, 4, 0, 9]},
            one | {"bbox": [3, 4, 5, -2]},
            one | {"image_id": 4711},
            one | {"segmentation": [[1, 1, 5, 5]]},
        ]

    count = len(open_coco(root, "train").table.labels)
    edit(root, spoil)
    (root / "train2017/000000000107.jpg").unlink()
    scenes = open_coco(root, "train")
    assert [scenes.image_id(index) for index in range(len(scenes))] == [100, 114]
    assert len(scenes.table.labels) == count - len(make_scene(1, (48, 64)).instances)
    lines = "\n".join(said())
    assert "1 of 3 images are not in" in lines and "000000000107.jpg" in lines
    assert "2 boxes without an area" in lines and "1 outlines without an area" in lines
    assert "1 annotations of images that the file does not list" in lines


def test_broken_images_are_skipped(root):
    scenes = open_coco(root, "val")
    path = root / "val2017/000000000100.jpg"
    whole = path.read_bytes()
    path.write_bytes(whole[:400])
    with pytest.raises(SkipImage):
        scenes.read(0)
    path.write_bytes(whole)
    with limited_to(64 * 48 - 1), pytest.raises(SkipImage, match="max_pixels"):
        scenes.read(0)
    scenes.read(0)
    Image.new("RGB", (64, 49)).save(path)
    with pytest.raises(SkipImage, match=r"64x49 pixels, and the annotations are of .* 64x48"):
        scenes.read(0)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_an_image_is_turned_only_if_its_annotations_are(root, orientation):
    """A photograph that was labelled as its EXIF turns it, and one labelled as it is stored."""
    path = root / "val2017/000000000100.jpg"
    scenes, plain = open_coco(root, "val"), Image.open(path).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = orientation
    plain.save(path, exif=exif, quality=95)
    stored, _ = scenes.read(0)
    assert np.abs(np.asarray(stored, int) - np.asarray(plain, int)).mean() < 4
    if orientation in (6, 8):
        turn = Image.Transpose.ROTATE_90 if orientation == 6 else Image.Transpose.ROTATE_270
        plain.transpose(turn).save(path, exif=exif, quality=95)  # stored lying, shown upright
        turned, _ = scenes.read(0)
        assert np.abs(np.asarray(turned, int) - np.asarray(plain, int)).mean() < 4


def move(root, annotations, images, split):
    """Move a split's annotation file and its folder of images."""
    (root / annotations).parent.mkdir(parents=True, exist_ok=True)
    (root / f"annotations/instances_{split}2017.json").rename(root / annotations)
    if images != f"{split}2017":
        target = root / images
        target.mkdir(parents=True, exist_ok=True)
        for path in (root / f"{split}2017").iterdir():
            path.rename(target / path.name)
        (root / f"{split}2017").rmdir()


@pytest.mark.parametrize(
    ("annotations", "images", "split"),
    [
        ("annotations/instances_train2014.json", "train2014", "train"),
        ("annotations/instances_train2017.json", "images/train2017", "train"),
        ("annotations/instances_val.json", "val", "val"),
        ("annotations/instances_train.json", "images/train", "train"),
        ("valid/_annotations.coco.json", "valid", "val"),
        ("annotations/train.json", "images", "train"),
        ("val.json", "validation", "val"),
    ],
)
def test_layouts(root, annotations, images, split):
    (root / "annotations/captions_val2017.json").write_text("{}")
    expected = open_coco(root, split)
    boxes, digest = expected.annotations(0).boxes, expected.digest
    move(root, annotations, images, split)
    scenes = open_coco(root, split)
    assert scenes.source == root / annotations and scenes.folder == root / images
    np.testing.assert_array_equal(scenes.annotations(0).boxes, boxes)
    assert scenes.digest == digest, "the same data at another place"


def test_given_annotations(root, tmp_path):
    path = tmp_path / "mine.json"
    shutil.copy(root / "annotations/instances_val2017.json", path)
    (root / "annotations/instances_val2014.json").write_text("{}")
    with pytest.raises(DataError, match=r"instances_val2014.json, .*choose one"):
        open_coco(root, "val")
    (root / "val2017").rename(tmp_path / "elsewhere")
    shutil.rmtree(root / "train2017")
    with pytest.raises(DataError, match=r"val_annotations .*mine\.json: its images, such as"):
        open_coco(root, "val", path)
    (tmp_path / "elsewhere").rename(root / "val")
    assert open_coco(root, "val", path).folder == root / "val"
    (root / "val").rename(root / "images")
    (root / "images/000000000107.jpg").unlink()
    assert len(open_coco(root, "val", path)) == 1


def test_classes_are_matched_by_name(root):
    def others(content):
        names = {2: "triangle", 5: "circle", 9: "square", 11: "hexagon"}
        new = {"circle": 5, "square": 9, "triangle": 2}
        content["categories"] = [{"id": id_, "name": name} for id_, name in names.items()]
        for each in content["annotations"]:
            each["category_id"] = new[CATEGORIES[each["category_id"]]]

    train, before = open_coco(root, "train"), open_coco(root, "val")
    edit(root, others, "val")
    other = open_coco(root, "val")
    after = other.with_classes(train.classes)
    assert other.classes == ["triangle", "circle", "square", "hexagon"]
    assert after.classes == train.classes and after.category_ids == [5, 9, 2]
    for index in range(2):
        assert after.annotations(index).labels.tolist() == before.annotations(index).labels.tolist()
    with pytest.raises(DataError, match="classes that training does not know: square, triangle"):
        before.with_classes(["circle"])


def test_categories_of_one_name_are_one_class(root):
    def roboflow(content):
        content["categories"].insert(0, {"id": 0, "name": "circle", "supercategory": "none"})

    before = open_coco(root, "train").annotations(0).labels
    edit(root, roboflow)
    scenes = open_coco(root, "train")
    assert scenes.classes == ["circle", "square", "triangle"] and scenes.category_ids == [0, 5, 9]
    assert scenes.annotations(0).labels.tolist() == before.tolist()


def test_boxes_without_outlines(root):
    def boxes_alone(content):
        for each in content["annotations"]:
            del each["segmentation"]

    edit(root, boxes_alone)
    scenes = open_coco(root, "train")
    objects = scenes.annotations(0)
    left, top, right, bottom = objects.boxes[0].astype(int)
    expected = np.zeros((48, 64), bool)
    expected[top:bottom, left:right] = True
    np.testing.assert_array_equal(objects.masks[0], expected)
    assert not scenes.has_masks


def test_boxes_are_cut_at_the_image(root):
    edit(root, lambda content: content["annotations"][0].update(bbox=[-5, 40, 100, 50.5]))
    assert open_coco(root, "train").annotations(0).boxes[0].tolist() == [0, 40, 64, 48]


def test_the_digest_is_of_annotations_and_images(root):
    scenes = open_coco(root, "train")
    again = pickle.loads(pickle.dumps(scenes))
    assert again.digest == scenes.digest != scenes.at(np.array([1, 0, 2])).digest
    digest = scenes.view_digest
    with limited_to(10_000):
        assert again.view_digest != digest
    edit(root, lambda content: content["annotations"][0]["bbox"].__setitem__(0, 1.5))
    assert open_coco(root, "train").digest != scenes.digest
    path = root / "val2017/000000000100.jpg"
    digest = open_coco(root, "val").digest
    Image.new("RGB", (64, 48)).save(path)
    assert open_coco(root, "val").digest != digest


def test_some_of_the_images(root):
    scenes = open_coco(root, "train")
    some = scenes.at(np.array([2, 0]))
    assert len(some) == 2 and [some.image_id(index) for index in (0, 1)] == [114, 100]
    np.testing.assert_array_equal(some.annotations(0).boxes, scenes.annotations(2).boxes)
    assert some.name(0).endswith("114.jpg") and some.size(0) == (48, 64)


ENTRY = {"id": 1, "image_id": 100, "category_id": 2, "bbox": [1, 2, 3, 4]}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"images": []}, "its list images is empty"),
        ({"categories": None}, "has no list categories"),
        ({"annotations": {}}, "has no list annotations"),
        ({"annotations": []}, "no image has an object"),
        ({"annotations": [ENTRY | {"iscrowd": 1}]}, "no image has an object"),
        ({"annotations": [{**ENTRY, "category_id": 77}]}, "annotation 1: its category_id 77"),
        ({"annotations": [{**ENTRY, "bbox": [1, 2, 3]}]}, "annotation 1: its bbox"),
        ({"annotations": [{**ENTRY, "bbox": None}]}, "annotation 1: "),
        ({"annotations": [{"image_id": 100, "id": 8}]}, "annotation 8: it has no bbox"),
        ({"annotations": [{**ENTRY, "segmentation": [[1, 2, 3]]}]}, "annotation 1: a polygon"),
        ({"annotations": [{**ENTRY, "segmentation": {"counts": "xyz", "size": [48, 64]}}]},
         "annotation 1: its compressed run lengths"),
        ({"images": [{"id": 100, "file_name": "000000000100.jpg"}]}, "no height and width"),
        ({"images": [{"id": 100, "file_name": 5}]}, "without id or file_name"),
        ({"images": [{"id": 1, "file_name": "a.jpg", "height": 3, "width": 4}] * 2},
         "2 images have the id 1"),
        ({"images": [{"id": 1, "file_name": "a.jpg", "height": 3, "width": 4}]},
         "its images, such as a.jpg, are not in .*train2017"),
        ({"categories": [{"id": 2}]}, "a category without id or name"),
        ({"categories": [{"id": 2, "name": "a"}, {"id": 2, "name": "b"}]}, "the same id"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_used(root, change, said):
    path = edit(root, lambda content: content.update(change))
    with pytest.raises(DataError, match=said) as error:
        open_coco(root, "train")
    assert "train_annotations" in str(error.value) and str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_no_coco_file(root, tmp_path):
    path = root / "annotations/instances_train2017.json"
    path.write_text('{"images": [NaN]}')
    with pytest.raises(DataError, match="is no JSON: NaN is no number"):
        open_coco(root, "train")
    path.write_text("[1, 2]")
    with pytest.raises(DataError, match="has no list images and annotations and categories"):
        open_coco(root, "train")
    path.unlink()
    with pytest.raises(DataError, match=r"no annotations of train \(annotations/instances_train"):
        open_coco(root, "train")
    with pytest.raises(DataError, match="there is no such file"):
        open_coco(root, "train", tmp_path / "none.json")
    with pytest.raises(DataError, match="there is no such folder"):
        open_coco(tmp_path / "none", "train")
