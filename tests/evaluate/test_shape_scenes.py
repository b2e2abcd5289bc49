"""The made-up scenes that dense tasks are tested on: image, mask and instances agree."""

import json

import numpy as np
from PIL import Image, ImageDraw
from shape_scenes import CATEGORIES, CLASSES, make_scene, write_coco


def filled(counts, size):
    """Return the pixels of COCO's run lengths, bool [H, W]."""
    values = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return values.reshape(size[::-1]).T


def test_instances_are_the_mask():
    for seed in range(6):
        scene = make_scene(seed, (40, 56))
        rebuilt = np.zeros_like(scene.mask)
        for instance in scene.instances:
            assert not rebuilt[instance.pixels].any()  # no shape covers another
            rebuilt[instance.pixels] = instance.label
            rows, columns = np.nonzero(instance.pixels)
            tight = [columns.min(), rows.min(), columns.max(), rows.max()]
            assert tight == list(instance.box)  # Pillow draws the pixels that corners begin
        np.testing.assert_array_equal(rebuilt, scene.mask)
        brightest = np.asarray(scene.image, int)[scene.mask > 0].argmax(-1) + 1
        np.testing.assert_array_equal(brightest, scene.mask[scene.mask > 0])  # its class's colour


def test_coco_files_have_what_the_scenes_have(tmp_path):
    write_coco(tmp_path, train=5, val=1, size=(48, 64), crowd=True)
    content = json.loads((tmp_path / "annotations/instances_train2017.json").read_text())
    numbers = [image["id"] for image in content["images"]]
    found = {"crowd": 0, "polygon": 0}
    for record in content["annotations"]:
        scene = make_scene(numbers.index(record["image_id"]), (48, 64))
        left, top, *_ = record["bbox"]
        (instance,) = [one for one in scene.instances if one.box[:2] == (left, top)]
        assert CATEGORIES[record["category_id"]] == CLASSES[instance.label]
        assert record["area"] == instance.pixels.sum()
        part = record["segmentation"]
        if record["iscrowd"]:
            pixels = filled(part["counts"], part["size"])
            found["crowd"] += 1
        else:
            drawn = Image.new("L", (64, 48))
            ImageDraw.Draw(drawn).polygon(part[0], fill=1)
            pixels = np.asarray(drawn) > 0
            found["polygon"] += 1
        np.testing.assert_array_equal(pixels, instance.pixels)
    assert found["crowd"] == 5
    assert found["polygon"] > 0
    assert sorted((tmp_path / "train2017").iterdir())[0].name == content["images"][0]["file_name"]
