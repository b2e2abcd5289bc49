"""Large-scale jitter: boxes and masks move with the pixels, drawn from (seed, epoch, sample)."""

import numpy as np
import pytest
import torch
from PIL import Image
from shape_scenes import write_coco

pytest.importorskip("faster_coco_eval")

from fastimae.evaluate.detection.coco import Annotations, open_coco
from fastimae.evaluate.detection.jitter import LargeScaleJitter, View, resize_for_test, target_in
from fastimae.evaluate.detection.outlines import Outline
from fastimae.evaluate.detection.targets import (
    collate_targets,
    make_target,
    unpack_masks,
    unpack_target,
)

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
SIZE = 64
HEIGHT, WIDTH = 90, 120


def objects(kind="polygons"):
    """Return an image with a red, a green and a blue object on black, and the annotations."""
    shapes = [(10, 20, 50, 60), (70, 5, 110, 35), (60, 50, 119, 88)]
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    outlines = []
    for channel, (left, top, right, bottom) in enumerate(shapes):
        image[top:bottom, left:right, channel] = 255
        mask = image[..., channel] > 0
        polygon = np.array([left, top, right, top, right, bottom, left, bottom], float)
        flat = np.concatenate([[False], mask.T.ravel()])
        starts = np.flatnonzero(flat[1:] != flat[:-1])
        runs = np.diff(np.concatenate([[0], starts, [mask.size]]))
        known = {"polygons": Outline((polygon,)), "runs": Outline(runs=runs), "boxes": Outline()}
        outlines.append(known[kind])
    return Image.fromarray(image), Annotations(
        boxes=np.array(shapes, np.float32),
        labels=np.array([1, 2, 3]),
        outlines=outlines,
        crowd=np.zeros(3, bool),
        size=(HEIGHT, WIDTH),
    )


def jitter(size=SIZE, **settings):
    return LargeScaleJitter(size, **{"mean": MEAN, "std": STD, "seed": 5, **settings})


def unpacked(target, size=SIZE):
    """Return boxes, labels and masks as arrays."""
    tensors = unpack_target(collate_targets([target])[0], (size, size))
    return (tensors[name].numpy() for name in ("boxes", "labels", "masks"))


def pixels_of(view):
    """Return the pixels of a normalised view in 0..1, [S, S, C]."""
    return view.transpose(1, 2, 0) * STD + MEAN


@pytest.mark.parametrize("kind", ["polygons", "runs", "boxes"])
def test_what_is_under_a_mask_keeps_its_colour(kind):
    image, annotations = objects(kind)
    shown = cut = 0
    for epoch in range(40):
        view, target = jitter()(image, annotations, epoch, 3)
        boxes, labels, masks = unpacked(target)
        colours = pixels_of(view)
        for box, label, mask in zip(boxes, labels, masks, strict=True):
            truth = colours[..., label - 1] > 0.5  # each object has a channel of its own
            differ = (mask > 0) ^ truth
            edge = truth ^ np.roll(truth, 1, 0) | truth ^ np.roll(truth, 1, 1)
            edge |= truth ^ np.roll(truth, -1, 0) | truth ^ np.roll(truth, -1, 1)
            assert not (differ & ~edge).any(), "only pixels of an edge may be rounded"
            rows, columns = np.flatnonzero(truth.any(1)), np.flatnonzero(truth.any(0))
            tight = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
            np.testing.assert_allclose(box, tight, atol=1.01)
            shown += 1
            cut += bool((box == SIZE).any())
    assert shown > 60 and cut > 10


def test_the_image_is_the_resized_one_cut_or_padded():
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8))
    padded = 0
    for epoch in range(12):
        transform = jitter()
        view, _ = transform(image, objects()[1], epoch, 0)
        drawn = transform.view(image.size, epoch, 0)
        width, height = (
            round(side * scale) for side, scale in zip(image.size, drawn.scale, strict=True)
        )
        whole = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR), float)
        (left, top), (rows, columns) = drawn.corner, drawn.size
        expected = whole[top : top + rows, left : left + columns]
        expected = expected[:, ::-1] if drawn.flip else expected
        shown = 255 * pixels_of(view)
        assert np.abs(shown[:rows, :columns] - expected).max() < 2.01  # Pillow rounds twice
        assert (view[:, rows:] == 0).all() and (view[:, :, columns:] == 0).all()
        assert (rows == SIZE or height == rows) and (columns == SIZE or width == columns)
        padded += rows < SIZE
    assert 0 < padded < 12


def test_scales_places_and_flips_are_drawn_evenly():
    drawn = [jitter().view((WIDTH, HEIGHT), epoch, index) for epoch in range(20)
             for index in range(50)]  # fmt: skip
    longer = np.array([view.scale[0] * WIDTH / SIZE for view in drawn])
    assert longer.min() < 0.12 and longer.max() > 1.98
    shares, _ = np.histogram(longer, 4, (0.1, 2.0))
    assert shares.min() > 200
    assert 430 < sum(view.flip for view in drawn) < 570
    rooms = [(view.corner[0], round(view.scale[0] * WIDTH) - SIZE) for view in drawn]
    places = np.array([left / room for left, room in rooms if room > 20])
    assert places.min() == 0 and places.max() == 1 and abs(places.mean() - 0.5) < 0.05
    assert len(set(drawn)) > 600
    assert not any(jitter(flip=0).view((9, 9), epoch, 0).flip for epoch in range(20))


def test_a_sample_is_a_function_of_seed_epoch_and_index():
    image, annotations = objects()
    view, target = jitter()(image, annotations, 2, 7)
    np.random.default_rng(0).random()
    again, same = jitter()(image, annotations, 2, 7)
    np.testing.assert_array_equal(view, again)
    for name, value in target.items():
        np.testing.assert_array_equal(value, same[name])
    for other in ({"seed": 6}, {}):
        assert not np.array_equal(view, jitter(**other)(image, annotations, 2 + (not other), 7)[0])


def test_crowds_and_what_is_not_shown_are_left_out():
    image, annotations = objects()
    crowd = annotations._replace(crowd=np.array([False, True, False]))
    transform = jitter(scale=(1.0, 1.0))
    assert transform(image, crowd, 0, 0)[1]["labels"].tolist() == [1, 3]
    all_crowd = annotations._replace(crowd=np.ones(3, bool))
    _, target = transform(image, all_crowd, 0, 0)
    assert target["boxes"].shape == (0, 4) and target["labels"].shape == (0,)
    _, labels, masks = unpacked(target)
    assert masks.shape == (0, SIZE, SIZE) and masks.dtype == np.uint8 and labels.dtype == np.int64
    tiny = jitter(scale=(0.02, 0.02))(image, annotations, 0, 0)[1]
    assert not len(tiny["labels"]), "objects of less than a pixel"
    assert jitter(max_objects=2)(image, annotations, 0, 0)[1]["labels"].tolist() != [1, 2, 3]
    assert transform.max_objects >= 93, "the most of an image of COCO"


def test_the_largest_objects_are_kept():
    image, annotations = objects()
    some = jitter(scale=(1.0, 1.0), max_objects=2)(image, annotations, 0, 0)[1]
    assert some["labels"].tolist() == [1, 3]


def test_a_box_that_is_cut_is_that_of_its_visible_mask():
    """Half of a triangle's box may be left with only the narrow end of the triangle."""
    triangle = np.array([0.0, 80, 100, 80, 100, 20])
    annotations = Annotations(
        boxes=np.array([[0, 20, 100, 80]], np.float32),
        labels=np.array([1]),
        outlines=[Outline((triangle,))],
        crowd=np.zeros(1, bool),
        size=(100, 100),
    )
    for epoch in range(30):
        _, target = jitter(scale=(2.0, 2.0), flip=0)(Image.new("RGB", (100, 100)), annotations,
                                                    epoch, 0)  # fmt: skip
        for box, _, mask in zip(*unpacked(target), strict=True):
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            inside = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
            np.testing.assert_allclose(box, inside, atol=1)  # outlines end within pixels


@pytest.mark.parametrize("size", [(90, 120), (120, 90), (64, 64), (7, 300)])
def test_resize_for_test(size):
    image = Image.effect_noise(size[::-1], 60).convert("RGB")
    square, view = resize_for_test(image, SIZE, MEAN, STD)
    height, width = view.size
    assert max(height, width) == SIZE and square.shape == (3, SIZE, SIZE)
    expected = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR), float)
    assert np.abs(255 * pixels_of(square)[:height, :width] - expected).max() < 1e-3
    assert (square[:, height:] == 0).all() and (square[:, :, width:] == 0).all()
    corner = np.array([size[1], size[0]]) * view.scale
    np.testing.assert_allclose(corner, [width, height])


def test_gray_models():
    image, annotations = objects()
    view, _ = jitter(mean=(0.5,), std=(0.25,))(image, annotations, 0, 0)
    square, _ = resize_for_test(image, SIZE, (0.5,), (0.25,))
    assert view.shape == square.shape == (1, SIZE, SIZE)


@pytest.mark.parametrize("size", [(64, 64), (30, 45), (9, 7)])
def test_masks_as_bits(size):
    rng = np.random.default_rng(1)
    masks, parts = [], []
    for _ in range(9):
        top, left = (int(rng.integers(0, side)) for side in size)
        part = rng.random((rng.integers(1, size[0] - top + 1),
                           rng.integers(1, size[1] - left + 1))) < 0.5  # fmt: skip
        masks.append(np.zeros(size, np.uint8))
        masks[-1][top : top + part.shape[0], left : left + part.shape[1]] = part
        parts.append((left, top, part))
    target = make_target(np.zeros((9, 4)), range(1, 10), parts)
    found = unpack_masks(torch.from_numpy(target["frames"]), torch.from_numpy(target["bits"]), size)
    np.testing.assert_array_equal(found.numpy(), np.stack(masks))
    assert len(target["bits"]) < np.stack(masks).size / 4


def test_on_scenes_of_a_data_set(tmp_path):
    scenes = open_coco(write_coco(tmp_path, train=2, val=1, size=96), "train")
    _, target = LargeScaleJitter(96, (1.0, 1.0), flip=0, mean=MEAN, std=STD, seed=0)(
        *scenes.read(1), 0, 1
    )
    boxes, labels, masks = unpacked(target, 96)
    expected = scenes.annotations(1)
    np.testing.assert_array_equal(labels, expected.labels)
    np.testing.assert_array_equal(masks, expected.masks)
    np.testing.assert_array_equal(boxes, expected.boxes)  # also where they are not tight


def test_a_box_that_is_not_cut_is_that_of_its_annotation():
    """Tests compare with it, and annotators' boxes are not always those of their outlines."""
    image, annotations = objects()
    loose = annotations.boxes + np.array([-3.25, -2, 1, 1.5], np.float32)
    annotations, whole = annotations._replace(boxes=loose), 0
    for epoch in range(30):
        transform = jitter(scale=(0.5, 1.5))
        drawn = transform.view(image.size, epoch, 0)
        _, target = transform(image, annotations, epoch, 0)
        for box, label in zip(target["boxes"], target["labels"], strict=True):
            corners = loose[label - 1].reshape(2, 2) * drawn.scale - drawn.corner
            if drawn.flip:
                corners[:, 0] = drawn.size[1] - corners[::-1, 0]
            if (corners >= 0).all() and (corners <= drawn.size[::-1]).all():
                np.testing.assert_allclose(box, corners.ravel(), rtol=1e-5)
                whole += 1
    assert whole > 30


def test_sides_that_are_not_cut_stay_the_annotations():
    """Not the pixels of the outline, which are up to one smaller on each side."""
    outline = np.array([10.4, 20.3, 80.6, 20.3, 80.6, 60.7, 10.4, 60.7])
    annotations = Annotations(
        boxes=np.array([[10.4, 20.3, 80.6, 60.7]], np.float32),
        labels=np.array([1]),
        outlines=[Outline((outline,))],
        crowd=np.zeros(1, bool),
        size=(100, 100),
    )
    for left, flip in ((30, False), (30, True), (0, False)):
        view = View(scale=(1.0, 1.0), corner=(left, 0), size=(100, 64), flip=flip)
        (box,) = target_in(view, annotations)["boxes"]
        expected = [max(10.4 - left, 0), 20.3, min(80.6 - left, 64), 60.7]
        if flip:
            expected[::2] = 64 - expected[2], 64 - expected[0]
        np.testing.assert_allclose(box, expected, rtol=1e-5)
