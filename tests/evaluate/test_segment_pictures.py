"""Pictures of masks: colours, errors, the legend, and the chart of classes."""

import json
import math

import numpy as np
import pytest
from figure_texts import texts_of, texts_outside
from PIL import Image
from shape_scenes import make_scene

from fastimae.evaluate.segmentation import pictures
from fastimae.evaluate.segmentation.class_names import ADE20K, VOC
from fastimae.evaluate.segmentation.pictures import DrawnScene, draw_class_iou, draw_scenes, palette
from fastimae.pictures import plots


def drawn(seed=0, size=(48, 64), shift=6, name="a scene"):
    """Return a scene whose prediction is moved to the right, and whose top does not count."""
    scene = make_scene(seed, size)
    truth = scene.mask.copy()
    truth[:5] = 255
    return DrawnScene(name, np.asarray(scene.image), truth, np.roll(scene.mask, shift, axis=1))


def test_the_palette_is_vocs():
    """As VOC's masks have it, for some classes."""
    known = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 3: (128, 128, 0), 8: (64, 0, 0),
             15: (192, 128, 128), 20: (0, 64, 128), 255: (224, 224, 192)}  # fmt: skip
    colours = palette()
    assert {number: tuple(colours[number].tolist()) for number in known} == known
    assert len(np.unique(colours, axis=0)) == 256


def test_a_row_has_the_colours_of_classes_and_errors_in_red():
    scene = drawn()
    image, truth, predicted, errors = pictures.pictures_of(scene)
    assert image is scene.image
    for row in range(0, 48, 3):
        for column in range(0, 64, 3):
            number, guess = scene.truth[row, column], scene.predicted[row, column]
            assert tuple(truth[row, column]) == tuple(palette()[number])
            assert tuple(predicted[row, column]) == tuple(palette()[guess])
            wrong = number not in (255, guess)
            assert (tuple(errors[row, column]) == pictures.WRONG) == wrong
    assert (errors[:5] == palette()[255]).all()


def test_the_legend_names_the_classes_that_are_shown(tmp_path, drawn_figures):
    scenes = [drawn(seed) for seed in range(2)]
    draw_scenes(scenes, VOC, tmp_path / "a.png", note="mIoU 48.10 %")
    found = {text.get_text() for text in texts_of(drawn_figures[0])}
    shown = {VOC[number] for scene in scenes for number in np.unique(scene.predicted)}
    assert 2 <= len(shown) < 5
    expected = {*pictures.COLUMNS, *shown, "does not count", "a scene", "mIoU 48.10 %"}
    assert found == expected
    with Image.open(tmp_path / "a.png") as picture:
        boxes = json.loads(picture.text[plots.PHOTOGRAPHS])
        lines = math.ceil((len(shown) + 1) / 4)
        assert len(boxes) == 8 + math.ceil((len(shown) + 1) / lines)  # columns of the legend
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    for number in np.unique(scenes[0].truth):
        assert (pixels == palette()[number]).all(1).sum() > 20


def test_many_classes_and_long_names_stay_inside(tmp_path, drawn_figures):
    scene = drawn(name="a/folder/with/a/name/that/is/longer/than/its/pictures/are/high")
    scene.predicted[:40] = np.arange(40)[:, None] + 60
    draw_scenes([scene], ADE20K, tmp_path / "a.png", note="a note. " * 30)
    assert texts_outside(drawn_figures[0]) == []
    named = {text.get_text() for text in texts_of(drawn_figures[0])} & set(ADE20K)
    assert len(named) == 24
    assert "wall" in named  # the background, with the most pixels


def test_scenes_may_have_different_sizes_and_nothing_ignored(tmp_path, drawn_figures):
    tall = make_scene(1, (64, 32))
    scenes = [
        drawn(0, (32, 64)),
        DrawnScene("tall", np.asarray(tall.image), tall.mask, tall.mask),
    ]
    draw_scenes(scenes, VOC, tmp_path / "a.png")
    assert texts_outside(drawn_figures[0]) == []
    boxes = plots.boxes_of_photographs(drawn_figures[0])
    shapes = [(box[3] - box[1]) / (box[2] - box[0]) for box in boxes[:8]]
    assert shapes == pytest.approx([0.5] * 4 + [2.0] * 4, rel=0.05)
    assert boxes[4][1] - boxes[0][3] < 30  # rows are as high as their pictures


def test_bars_are_the_iou_of_classes_that_occur(tmp_path, drawn_figures):
    draw_class_iou(
        {"low": 12.5, "none": None, "high": 80.0}, tmp_path / "a.png", "IoU of each class"
    )
    (axis,) = drawn_figures[0].axes
    assert [bar.get_width() for bar in axis.patches] == [12.5, 80.0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["low", "high"]
    (line,) = axis.lines
    assert line.get_xdata()[0] == pytest.approx(46.25)
    assert "mean, 46.25 %" in axis.get_xlabel()


def test_names_of_classes_and_full_bars_fit(tmp_path, drawn_figures):
    iou = {f"a class with a very long name {number}": 100.0 for number in range(20)}
    draw_class_iou(iou, tmp_path / "a.png", "IoU of each class")
    assert texts_outside(drawn_figures[0]) == []
