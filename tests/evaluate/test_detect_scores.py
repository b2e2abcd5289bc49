"""Average precision: COCO's own library, cases worked by hand, and any number of ranks."""

import contextlib
import io
import json
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from shape_scenes import write_coco

pytest.importorskip("faster_coco_eval")

from fastimae.engine.distributed import ALONE, World
from fastimae.evaluate.detection.coco import open_coco
from fastimae.evaluate.detection.found import Found, exchanged
from fastimae.evaluate.detection.pictures import draw_curves, draw_detections
from fastimae.evaluate.detection.scores import RECALLS, CocoScores

THEIRS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def write_boxes(root, annotations, *, images=2, size=200, categories=("cat", "dog")):
    """Write a COCO data set of black images, from (image, category, left, top, width, height)."""
    (root / "annotations").mkdir(parents=True)
    (root / "val2017").mkdir()
    entries = [{"id": 10 + number, "file_name": f"{number}.png", "width": size, "height": size}
               for number in range(images)]  # fmt: skip
    for entry in entries:
        Image.new("RGB", (size, size)).save(root / "val2017" / entry["file_name"])
    content = {
        "images": entries,
        "categories": [{"id": 3 * number, "name": name}
                       for number, name in enumerate(categories, 1)],
        "annotations": [
            {"id": number, "image_id": 10 + image, "category_id": category, "bbox": box,
             "area": box[2] * box[3], "iscrowd": 0}
            for number, (image, category, *box) in enumerate(annotations)
        ],
    }  # fmt: skip
    (root / "annotations/instances_val2017.json").write_text(json.dumps(content))
    return open_coco(root, "val")


def add(scores, image_id, found, masks=None):
    """Add detections (label, score, left, top, right, bottom) of an image."""
    labels = torch.tensor([each[0] for each in found], dtype=torch.int64)
    values = torch.tensor([each[1] for each in found])
    boxes = torch.tensor([each[2:] for each in found], dtype=torch.float32).reshape(-1, 4)
    scores.add(image_id, boxes, values, labels, masks)


def rough_detections(scenes, seed=0):
    """Return shifted copies of the annotations, some of wrong classes, some missing."""
    rng = np.random.default_rng(seed)
    for index in range(len(scenes)):
        truth = scenes.annotations(index)
        found, masks = [], []
        for label, mask in zip(truth.labels, truth.masks, strict=True):
            for _ in range(rng.integers(0, 4)):
                down, right = rng.integers(-4, 5, 2)
                moved = np.roll(mask, (down, right), (0, 1))
                rows, columns = np.flatnonzero(moved.any(1)), np.flatnonzero(moved.any(0))
                box = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
                guess = int(label) if rng.random() < 0.8 else int(rng.integers(1, 4))
                found.append((guess, round(rng.random(), 1), *map(float, box)))  # with ties
                masks.append(moved)
        yield index, found, torch.from_numpy(np.array(masks).reshape(-1, *truth.size).astype(bool))


def theirs(truth, results):
    """Return pycocotools' scores of a results file, in percent, and those of each class."""
    coco, cocoeval = (
        pytest.importorskip("pycocotools.coco"),
        pytest.importorskip("pycocotools.cocoeval"),
    )
    found = {}
    with contextlib.redirect_stdout(io.StringIO()):
        gt = coco.COCO(str(truth))
        for kind, end in (("bbox", ""), ("segm", "_mask")):
            rows = json.loads(results.read_text())
            for row in rows:
                row.pop("segmentation" if kind == "bbox" else "bbox")
            compared = cocoeval.COCOeval(gt, gt.loadRes(rows), kind)
            compared.evaluate()
            compared.accumulate()
            compared.summarize()
            named = zip(THEIRS, compared.stats, strict=False)
            found |= {f"{name}{end}": 100 * value for name, value in named if value >= 0}
            by_class = compared.eval["precision"][:, :, :, 0, -1]
            found[end] = [100 * each[each > -1].mean() for each in np.moveaxis(by_class, 2, 0)]
    return found


def test_pycocotools_finds_the_same(tmp_path):
    """Of polygons, crowds, ties of scores, wrong classes, and objects that were not found."""
    scenes = open_coco(write_coco(tmp_path, train=1, val=12, size=(110, 130), crowd=True), "val")
    scores = CocoScores(scenes, ALONE)
    for index, found, masks in rough_detections(scenes):
        add(scores, scenes.image_id(index), found, masks)
    mine = scores.compute()
    scores.write(tmp_path / "results.json")
    expected = theirs(scenes.source, tmp_path / "results.json")
    by_class = scores.by_class()
    for end in ("", "_mask"):
        np.testing.assert_allclose([row[f"AP{end}"] for row in by_class], expected.pop(end))
    assert mine == pytest.approx(expected) and 5 < mine["AP"] < 95 and 5 < mine["AP_mask"] < 95
    assert "APl" not in mine, "there is no large object"


def test_cases_by_hand(tmp_path):
    scenes = write_boxes(
        tmp_path, [(0, 3, 0, 0, 50, 50), (0, 3, 100, 100, 50, 50), (1, 6, 10, 10, 100, 100)]
    )
    scores = CocoScores(scenes, ALONE)
    # A cat found, one missed: precision 1 up to recall 1/2, so 51 of the 101 recalls.
    # A dog found with IoU 80/100: right up to IoU .8, 7 of 10, after a wrong one that is surer.
    add(scores, 10, [(1, 0.9, 0, 0, 50, 50)])
    add(scores, 11, [(2, 0.8, 10, 10, 110, 90), (2, 0.95, 150, 150, 199, 199)])
    found = scores.compute()
    cat, dog = 51 / 101, 0.5 * 0.7
    assert found["AP"] == pytest.approx(100 * (cat + dog) / 2)
    assert found["AP50"] == found["AP75"] == pytest.approx(100 * (cat + 0.5) / 2)
    assert found["APm"] == pytest.approx(100 * cat) and found["APl"] == pytest.approx(70)
    assert "APs" not in found and not any(name.endswith("_mask") for name in found)
    assert scores.by_class() == [
        {"class": "cat", "AP": pytest.approx(100 * cat)},
        {"class": "dog", "AP": pytest.approx(100 * dog)},
    ]
    curve = scores.curves()["AP50"]
    assert curve[:51] == pytest.approx(75) and curve[51:] == pytest.approx(25)


def test_nothing_found_is_zero_and_a_perfect_run_is_100(tmp_path):
    scenes = open_coco(write_coco(tmp_path, train=1, val=2, size=64), "val")
    scores = CocoScores(scenes, ALONE)
    for index in range(2):
        add(scores, scenes.image_id(index), [], torch.zeros(0, 64, 64, dtype=torch.bool))
    nothing = scores.compute()
    assert nothing["AP"] == nothing["AP_mask"] == 0 and set(nothing.values()) == {0.0}
    scores.write(tmp_path / "none.json")
    assert json.loads((tmp_path / "none.json").read_text()) == []
    scores.clear()
    for index in range(2):
        truth = scenes.annotations(index)
        found = [(int(label), 1.0, *box.tolist())
                 for label, box in zip(truth.labels, truth.boxes, strict=True)]  # fmt: skip
        add(scores, scenes.image_id(index), found, torch.from_numpy(truth.masks))
    assert set(scores.compute().values()) == {100.0}


def test_classes_without_objects_do_not_count(tmp_path):
    scenes = write_boxes(tmp_path, [(0, 3, 0, 0, 50, 50)], categories=("cat", "unicorn"))
    scores = CocoScores(scenes, ALONE)
    add(scores, 10, [(1, 0.5, 0, 0, 50, 50), (2, 0.9, 0, 0, 9, 9)])
    assert scores.compute()["AP"] == 100
    assert scores.by_class() == [{"class": "cat", "AP": 100.0}, {"class": "unicorn", "AP": None}]


def test_what_is_no_number_is_no_detection(tmp_path):
    """A model that has diverged is scored 0, and does not stop the run."""
    scores = CocoScores(write_boxes(tmp_path, [(0, 3, 0, 0, 50, 50)]), ALONE)
    nan, inf = float("nan"), float("inf")
    add(scores, 10, [(1, nan, 0, 0, 50, 50), (1, 0.3, 0, nan, 50, 50), (1, inf, 0, 0, 50, 50)])
    assert scores.compute()["AP"] == 0


def test_images_that_were_not_added_do_not_count(tmp_path):
    scenes = write_boxes(tmp_path, [(0, 3, 0, 0, 50, 50), (1, 3, 0, 0, 50, 50)])
    scores = CocoScores(scenes, ALONE)
    add(scores, 10, [(1, 0.5, 0, 0, 50, 50)])
    assert scores.compute()["AP"] == 100


def test_areas_that_are_not_given_are_those_of_the_outlines(tmp_path):
    root = write_coco(tmp_path, train=1, val=4, size=96)
    path = root / "annotations/instances_val2017.json"
    scenes = open_coco(root, "val")
    exact, absent = CocoScores(scenes, ALONE), json.loads(path.read_text())
    for each in absent["annotations"]:
        del each["area"]
    path.write_text(json.dumps(absent))
    without = CocoScores(open_coco(root, "val"), ALONE)
    for index in range(len(scenes)):
        for row, other in zip(exact.truth.rows(index, masks=True),
                              without.truth.rows(index, masks=True), strict=True):  # fmt: skip
            assert (
                other["area"]
                == scenes.annotations(index).masks.sum((1, 2))[
                    scenes.annotations(index).boxes[:, 0].tolist().index(row["bbox"][0])
                ]
            )


class Threads:
    """Worlds whose ranks are threads of this process."""

    def __init__(self, size):
        self.barrier, self.values = threading.Barrier(size, timeout=60), [None] * size
        self.worlds = [_Rank(rank, size, torch.device("cpu")) for rank in range(size)]
        for world in self.worlds:
            object.__setattr__(world, "group", self)

    def run(self, work):
        """Return what `work(world)` returns on each rank."""
        results = [None] * len(self.worlds)

        def one(world):
            results[world.rank] = work(world)

        threads = [threading.Thread(target=one, args=[world]) for world in self.worlds]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results


class _Rank(World):
    def all(self, values):
        self.group.values[self.rank] = values.clone()
        self.group.barrier.wait()
        everyone = list(self.group.values)
        self.group.barrier.wait()
        assert len({(each.shape, each.dtype) for each in everyone}) == 1, "as a collective needs"
        return everyone

    def max(self, number):
        return max(int(each) for each in self.all(torch.tensor(number)))


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_find_together_what_one_finds(tmp_path, size):
    scenes = open_coco(write_coco(tmp_path, train=1, val=5, size=64), "val")
    every = list(rough_detections(scenes))

    def work(world):
        scores = CocoScores(scenes, world)
        mine = every[world.rank :: world.size]
        for index, found, masks in mine + every[: 1 + world.rank]:  # as a sampler that pads
            add(scores, scenes.image_id(index), found, masks)
        return scores.compute(), scores

    alone, scores = work(ALONE)
    together = Threads(size).run(work)
    assert [found for found, _ in together] == [alone] * size
    together[0][1].write(tmp_path / "together.json")
    scores.write(tmp_path / "alone.json")
    assert (tmp_path / "together.json").read_text() == (tmp_path / "alone.json").read_text()


def test_ranks_without_images_or_detections(tmp_path):
    scenes = open_coco(write_coco(tmp_path, train=1, val=3, size=64), "val")

    def work(world):
        scores = CocoScores(scenes, world)
        if world.rank == 1:
            add(scores, scenes.image_id(0), [], torch.zeros(0, 64, 64))
            add(scores, scenes.image_id(2), [(1, 0.5, 0, 0, 9, 9)])  # a box alone
        return exchanged(scores.found, world)

    for found in Threads(2).run(work):
        assert sorted(found) == [0, 2] and found[2].boxes.tolist() == [[0, 0, 9, 9]]
        assert len(found[0].labels) == 0 and found[2].runs == [] and found[2].size == (64, 64)


def test_masks_of_large_images_are_compressed_a_few_at_a_time(monkeypatch):
    masks = torch.rand(5, 11, 7) < 0.4
    parts = torch.rand(5, 4), torch.rand(5), torch.ones(5, dtype=torch.int64), masks, (11, 7)
    together = Found.of(*parts)
    monkeypatch.setattr("fastimae.evaluate.detection.found._PIXELS_AT_ONCE", 2 * 77)
    assert Found.of(*parts).runs == together.runs
    assert (together.masks(range(5)) == masks.numpy()).all()


def test_pictures(tmp_path):
    scenes = open_coco(write_coco(tmp_path, train=1, val=3, size=(64, 80)), "val")
    scores = CocoScores(scenes, ALONE)
    for index, found, masks in rough_detections(scenes):
        add(scores, scenes.image_id(index), found, masks)
    scores.compute()
    (tmp_path / "val2017/000000000107.jpg").write_bytes(b"broken")
    draw_detections(scenes, scores.found, range(3), tmp_path / "detections.png")
    some = np.asarray(Image.open(tmp_path / "detections.png").convert("RGB")).astype(int)
    draw_detections(scenes, {}, range(3), tmp_path / "truth.png", least_score=0.2)
    none = np.asarray(Image.open(tmp_path / "truth.png").convert("RGB")).astype(int)
    assert some.shape == none.shape and some.shape[0] < 2.2 * some.shape[1]
    half = some.shape[1] // 2
    assert (some[:, :half] == none[:, :half]).all(), "annotations, in both"
    assert (some[:, half:] != none[:, half:]).any(), "detections, in one"
    draw_detections(scenes, {}, [1], tmp_path / "nothing.png")
    assert not (tmp_path / "nothing.png").exists()
    draw_curves(RECALLS, scores.curves(), tmp_path / "pr.png")
    assert Image.open(tmp_path / "pr.png").size[0] > 400
