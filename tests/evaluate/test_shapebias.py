"""Shape bias: stimuli of flat colours whose decisions are known, and the rules by hand."""

import json

import numpy as np
import pytest
import torch
from colour_classifiers import palette, save_fine_tuned, save_flat, save_probe
from ranks_in_threads import in_two_ranks

pytest.importorskip("timm")
pytest.importorskip("sklearn")

from fastimae.cli import evaluate
from fastimae.engine.distributed import ALONE
from fastimae.evaluate.options.robustness import ShapebiasOptions
from fastimae.evaluate.robustness.classes import categories, imagenet
from fastimae.evaluate.robustness.classifiers import load_classifiers
from fastimae.evaluate.robustness.cue_conflicts import (
    UNREAD,
    decisions,
    measures,
    members,
    open_cue_conflicts,
)
from fastimae.evaluate.tasks.shapebias import decide

QUICK = ["--num_workers", "0", "--device", "cpu", "--precision", "fp32", "--batch_size", "64"]
ORDER = list(categories())
COLOURS = palette(imagenet())
STIMULI = {
    "cat1-elephant1": "cat", "cat1-clock2": "cat", "cat2-dog1": "dog", "cat3-cat1": "cat",
    "truck1-bird3": "bird", "truck2-oven1": "knife", "truck1-truck1": "oven", "dog10-boat2": "dog",
}  # fmt: skip
"""The decision on each image: 3 by shape and 2 by texture of 6 conflicts; 4 shapes of 8 images."""
KNOWN = {
    "shape_accuracy": 50.0, "texture_accuracy": 37.5, "shape_bias": 0.6, "by_shape": 3,
    "by_texture": 2, "by_neither": 1, "conflicts": 6, "images": 8,
}  # fmt: skip


def run(*flags):
    return evaluate(["shapebias", *map(str, flags), *QUICK])


def numbers_of(folder):
    return json.loads((folder / "results.json").read_text())["numbers"]


def save_stimuli(root, *, flat=False):
    """Save an image for each of STIMULI: of the colour of a class of the category decided on."""
    for number, (name, decided) in enumerate(STIMULI.items()):
        classes = categories()[decided]
        shape = name.split("-")[0].rstrip("0123456789")
        folder = root if flat else root / shape
        save_flat(folder / f"{name}.png", COLOURS[classes[number % len(classes)]])
    return root


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return save_fine_tuned(tmp_path_factory.mktemp("c") / "c.pth", imagenet(), COLOURS)


def test_stimuli_are_in_folders_or_not(tmp_path):
    flat, nested = (
        open_cue_conflicts(save_stimuli(tmp_path / str(flat), flat=flat)) for flat in (True, False)
    )
    assert sorted(zip(*flat[1:], strict=True)) == sorted(zip(*nested[1:], strict=True))
    assert len(flat.images) == len(nested.images) == len(STIMULI)


def test_the_bias_of_known_decisions(tmp_path, classifier, capsys):
    data = save_stimuli(tmp_path / "data")
    other = save_fine_tuned(tmp_path / "c" / "other.pth", imagenet()[::-1], COLOURS)
    out = tmp_path / "out"
    assert run("--classifier", classifier, other, "--data", data, "--output_dir", out) == 0
    numbers = numbers_of(out)
    assert {name: numbers[name] for name in KNOWN} == KNOWN and numbers["bad_images"] == 0
    first, second = numbers["summary"]
    assert {**first, "classifier": ""} == {**second, "classifier": ""}
    rows = {row["shape"]: row for row in numbers["table"] if row["classifier"] == "c"}
    rows = rows or {row["shape"]: row for row in numbers["table"][:3]}
    assert list(rows) == ["cat", "dog", "truck"]  # in the order of the categories
    assert [row["images"] for row in rows.values()] == [4, 1, 3]
    assert [row["shape_bias"] for row in rows.values()] == [2 / 3, 1, 0]
    assert (out / "shapebias.png").stat().st_size > 5000
    assert (
        "| classifier | shape_accuracy | texture_accuracy | shape_bias |" in capsys.readouterr().out
    )


def test_a_probe_of_the_categories_themselves(tmp_path):
    colours = {name: COLOURS[classes[-1]] for name, classes in categories().items()}
    probe = save_probe(tmp_path / "run", ORDER, colours)
    save_flat(tmp_path / "data" / "car3-bear1.png", colours["car"])
    save_flat(tmp_path / "data" / "car3-dog1.png", colours["dog"])
    (tmp_path / "data" / "bear1-dog1.png").write_bytes(b"\x89PNG")
    assert run("--classifier", probe, "--data", tmp_path / "data") == 0
    numbers = numbers_of(tmp_path / "run" / "eval-shapebias")
    assert (numbers["shape_bias"], numbers["images"], numbers["bad_images"]) == (0.5, 2, 1)


def test_a_decision_is_the_largest_mean_not_the_largest_sum():
    """109 dogs of little probability each are more together than one knife, but not on average."""
    share = members(imagenet(), "c.pth")
    assert share.sum(0).tolist() == pytest.approx([1.0] * 16)
    assert (share > 0).sum(0).tolist() == [len(classes) for classes in categories().values()]
    place = {name: number for number, name in enumerate(imagenet())}
    probability = np.full(1000, 1e-9)
    probability[[place[name] for name in categories()["dog"]]] = 0.006
    probability[place[categories()["knife"][0]]] = 0.01
    logits = torch.tensor(np.log(probability / probability.sum()))[None]
    assert ORDER[int(decisions(logits, share))] == "knife"
    rng = np.random.default_rng(0)
    rows = 3 * rng.normal(size=(50, 1000))
    expected = []
    for row in np.exp(rows):
        means = [
            np.mean([row[place[name]] for name in classes]) for classes in categories().values()
        ]
        expected.append(int(np.argmax(means)))
    assert decisions(torch.tensor(rows), share).tolist() == expected


def test_measures_follow_their_definitions():
    rng = np.random.default_rng(1)
    shape, texture = rng.integers(0, 4, 200), rng.integers(0, 4, 200)
    decided = rng.integers(-1, 4, 200)
    found = measures(decided, shape, texture)
    read = [(d, s, t) for d, s, t in zip(decided, shape, texture, strict=True) if d != UNREAD]
    conflicts = [(d, s, t) for d, s, t in read if s != t]
    by_shape = sum(d == s for d, s, _ in conflicts)
    by_texture = sum(d == t for d, _, t in conflicts)
    assert found["shape_accuracy"] == pytest.approx(100 * np.mean([d == s for d, s, _ in read]))
    assert found["texture_accuracy"] == pytest.approx(100 * np.mean([d == t for d, _, t in read]))
    assert found["shape_bias"] == by_shape / (by_shape + by_texture)
    assert found["by_neither"] == len(conflicts) - by_shape - by_texture
    same = measures(shape, shape, shape)
    assert same["shape_bias"] is None and same["shape_accuracy"] == 100


def test_any_number_of_processes_decide_the_same(tmp_path, classifier):
    data = save_stimuli(tmp_path / "data")
    (data / "dog" / "dog1-cat1.png").write_bytes(b"")
    options = ShapebiasOptions(
        classifier=(classifier,), data=data, device="cpu", num_workers=0, batch_size=3
    )
    loaded = load_classifiers(options, torch.device("cpu"))
    stimuli = open_cue_conflicts(data)
    (alone,) = decide(loaded, stimuli, options, ALONE)
    found = in_two_ranks(lambda world: decide(loaded, stimuli, options, world)[0])
    assert all(np.array_equal(each, alone) for each in found)
    assert sorted(alone)[0] == UNREAD and (alone == UNREAD).sum() == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("holiday.png", "1 of 1 images are not called SHAPE1-TEXTURE2, as cat7-elephant1.png"),
        ("cat1-giraffe2.png", "1 unknown categories: giraffe (known: airplane, bear"),
        (None, "--data: no images in"),
    ],
)
def test_other_files_are_one_line_that_names_them(tmp_path, classifier, name, message, capsys):
    (tmp_path / "data").mkdir()
    if name:
        save_flat(tmp_path / "data" / name, (0, 0, 0))
    out = ["--output_dir", tmp_path / "out"]
    assert run("--classifier", classifier, "--data", tmp_path / "data", *out) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert run("--classifier", classifier, "--data", tmp_path / "none", *out) == 2
    assert "none: there is no such folder" in capsys.readouterr().err
    assert run("--classifier", classifier, "--data", classifier, *out) == 2
    assert f"--data {classifier}: this is a file: give the folder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_classifier_without_the_classes_is_refused(tmp_path, capsys):
    few = list(imagenet()[:300])
    path = save_fine_tuned(tmp_path / "c.pth", few, COLOURS)
    data = save_stimuli(tmp_path / "data")
    assert run("--classifier", path, "--data", data) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"--classifier {path} does not know" in said and "of the 207 classes" in said
