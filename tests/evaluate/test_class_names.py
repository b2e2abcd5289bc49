"""Labels are matched by class names, also where a test set has only some of the classes."""

import functools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from toy_images import save_colours, save_mae, save_splits

from fastimae.cli import convert, evaluate, export
from fastimae.engine.checkpoint import load_checkpoint
from fastimae.evaluate.images import Images
from fastimae.evaluate.labels.class_names import match_classes, match_training
from fastimae.loaders.errors import DataError

NAMES = ["a_red", "b_green", "c_blue"]
QUICK = ["--device", "cpu", "--num_workers", "0", "--precision", "fp32"]


def images(labels, classes, source="val"):
    return Images(
        Path(source),
        np.array(labels, np.int64),
        classes,
        int,
        f"{source} {labels}",
        bytes,
        kind="made up",
        identity=str,
    )


words = st.text("abcdefgh", min_size=1, max_size=3)


@settings(max_examples=40)
@given(st.lists(words, min_size=1, max_size=12, unique=True), st.data())
def test_each_image_keeps_the_name_of_its_class(names, data):
    classes = data.draw(st.permutations([*names, "only here"]))
    chosen = st.sampled_from([k for k, name in enumerate(classes) if name != "only here"])
    labels = data.draw(st.lists(chosen, min_size=1, max_size=20))
    before = images(labels, classes)
    after = match_classes(names, before, len(names))
    assert [names[label] for label in after.labels] == [classes[label] for label in labels]
    assert after.classes == names and before.labels.tolist() == labels
    assert (after.fingerprint == before.fingerprint) == (after.labels.tolist() == labels)


def test_imagenets_classes_are_known_without_names(caplog):
    """ImageNet's class names, as in the official fine-tuned files: sorted, as its folders are."""
    timm = pytest.importorskip("timm.data")
    caplog.set_level("INFO", "fastimae")
    some = ["n01443537", "n02085620", "n15075141"]
    after = match_classes([], images([0, 1, 2], some), 1000)
    assert after.labels.tolist() == [1, 151, 999]
    assert [timm.ImageNetInfo().index_to_label_name(k) for k in after.labels] == some
    assert "taken for ImageNet's 1000" in caplog.text and "matched by name" in caplog.text
    for others, classes in ((["cat", "n01443537"], 1000), (some, 999)):
        with pytest.raises(DataError, match=f"training {classes} without names"):
            match_classes([], images([0, 1], others), classes)


def test_a_folder_of_some_classes_has_no_numbers_of_training():
    with pytest.raises(DataError, match=r"2 classes \(dog, ship\), and training 4 without"):
        match_classes([], images([0, 1], ["dog", "ship"]), 4)
    for names in (["a", "b", "c", "d"], None):
        assert match_classes([], images([0, 1], names), 4).labels.tolist() == [0, 1]


def test_numbers_that_cannot_be_classes_are_an_error():
    """As if the only integers of a .beton file were IDs: a head for them would fill the disk."""
    with pytest.raises(DataError, match=r"ids: labels up to 1000000007 .*--label_field"):
        match_training(images([10**9 + 7, 5], None, "ids"), images([0], None))
    assert match_training(images([10**6, 5], None, "ids"), images([5], None))[1] == 10**6 + 1


def test_what_was_matched_is_told(caplog):
    caplog.set_level("INFO", "fastimae")
    match_classes(NAMES, images([0, 1, 1], ["c_blue", "a_red"]), 3)
    assert "val: 2 of the 3 classes of training, matched by name" in caplog.text
    caplog.clear()
    match_classes(NAMES, images([0, 2, 1], NAMES), 3)
    assert not caplog.text


@pytest.mark.parametrize(
    ("names", "classes", "who"),
    [([], NAMES, "training"), (NAMES, None, "it")],
    ids=["train", "val"],
)
def test_without_names_numbers_decide(caplog, names, classes, who):
    caplog.set_level("INFO", "fastimae")
    assert match_classes(names, images([0, 2, 0], classes), 3).labels.tolist() == [0, 2, 0]
    assert f"2 of the 3 classes of training, matched by number, as {who} has no" in caplog.text
    with pytest.raises(DataError, match=r"training does not know: 3, 7 \(it knows 0 to 2\)"):
        match_classes(names, images([0, 7, 3], classes and list("abcdefgh")), 3)


@pytest.mark.parametrize(
    ("names", "classes", "message"),
    [
        (NAMES, ["b_green", "x", "y"], r"does not know: x, y \(it knows 3: a_red, b_green, c_blue"),
        (["a", "b", "a"], ["a", "b", "c"], "several are called a"),
        (["a", "b", "c"], ["c", "b", "c"], "several are called c"),
    ],
    ids=["unknown", "twice-in-training", "twice-in-test"],
)
def test_classes_that_cannot_be_matched_are_one_error(names, classes, message):
    with pytest.raises(DataError, match=message):
        match_classes(names, images([0, 1, 2], classes), 3)


def test_a_class_without_images_does_not_matter():
    matched, count = match_training(
        images([0, 0], ["a", "empty"], "train"), images([1, 1], ["unknown", "a"])
    )
    assert (matched.labels.tolist(), count) == ([0, 0], 2)
    with pytest.raises(DataError, match="train has images without labels"):
        match_training(images([0, -1], None, "train"), images([0], None))


def test_a_hint_where_imagenets_validation_images_have_no_labels(tmp_path, capsys):
    save_mae(tmp_path / "mae.pth", depth=1)
    save_colours(tmp_path / "train", 2)
    (tmp_path / "flat").mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "flat" / "ILSVRC2012_val_00000001.JPEG")
    command = ["--checkpoint", str(tmp_path / "mae.pth"), "--data_path", str(tmp_path / "train")]
    command += ["--val", str(tmp_path / "flat"), "--device", "cpu", "--num_workers", "0"]
    assert evaluate(["knn", *command]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "without labels" in error and "--labels FILE" in error and "LOC_val_solution" in error


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """Images of three classes, a checkpoint, and val/ in parts: of one class and of the others."""
    root = tmp_path_factory.mktemp("toy")
    save_mae(root / "mae.pth", depth=1)
    save_splits(root / "data", 8)
    for part, names in (("one", NAMES[:1]), ("others", NAMES[1:]), ("all", NAMES)):
        for name in names:
            shutil.copytree(root / "data" / "val" / name, root / part / name)
    return root


def run(root, task, folder, *flags):
    command = [task, "--checkpoint", str(root / "mae.pth"), "--output_dir", str(folder)]
    assert evaluate([*command, *QUICK, *map(str, flags)]) == 0
    return folder


def accuracies(results):
    return json.loads((results / "results.json").read_text())["numbers"]["acc1"]


@pytest.mark.parametrize("packed", [False, True], ids=["folders", "beton"])
def test_parts_of_a_test_set_add_up(toy, tmp_path, packed):
    """An image is right or wrong, whatever else is in the test set."""

    def place(part):
        if not packed:
            return folders[part]
        assert convert([str(folders[part]), str(tmp_path / f"{part}.beton"), "--workers", "1"]) == 0
        (tmp_path / f"{part}.beton.json").unlink()
        return tmp_path / f"{part}.beton"

    folders = {part: toy / part for part in ("one", "others", "all")}
    train = toy / "data" / "train"
    scores = [
        accuracies(run(toy, "knn", tmp_path / part, "--k", 1, "--data_path", train, "--val", val))
        for part, val in ((part, place(part)) for part in folders)
    ]
    assert scores[2] > 60
    assert 4 * scores[0] + 8 * scores[1] == pytest.approx(12 * scores[2])


def test_a_classifier_keeps_the_names_and_is_tested_by_them(toy, tmp_path, capsys):
    pytest.importorskip("timm")
    more = ["--data_path", toy / "data", "--epochs", 4, "--lr", 2e-3, "--warmup_epochs", 1]
    more += ["--batch_size", 12, "--reprob", 0, "--aa", "none", "--smoothing", 0]
    tune = functools.partial(run, toy, "finetune", tmp_path)
    tune(*more)
    for name in ("checkpoint-last.pth", "checkpoint-best.pth"):
        assert load_checkpoint(tmp_path / name)["args"]["classes"] == NAMES
    places = (toy / "one", toy / "others", toy / "all")
    one, others, every = (accuracies(tune("--eval", "--val", val) / "eval") for val in places)
    assert every > 40 and 4 * one + 8 * others == pytest.approx(12 * every, abs=1e-9)
    for layout, name in (
        ("mae", "m.pth"),
        ("fastimae", "f.safetensors"),
        ("timm", "t.safetensors"),
    ):
        file = tmp_path / "exported" / name
        assert export([str(tmp_path / "checkpoint-best.pth"), str(file), "--to", layout]) == 0
        alone = ["finetune", "--eval", "--resume", file, "--val", toy / "others", *QUICK]
        assert evaluate(list(map(str, alone))) == 0
        assert accuracies(file.parent / "eval") == others
    bare = tmp_path / "exported" / "t.pth"
    assert export([str(tmp_path / "checkpoint-best.pth"), str(bare), "--to", "timm"]) == 0
    assert "t.pth cannot hold the names of classes: a .safetensors can" in capsys.readouterr().err
    alone = ["finetune", "--eval", "--resume", bare, "--val", toy / "others", *QUICK]
    assert evaluate(list(map(str, alone))) == 2
    assert "2 classes (b_green, c_blue), and training 3 without names" in capsys.readouterr().err
    for split in ("train", "val"):
        shutil.copytree(toy / "data" / split, tmp_path / "data" / split)
        (tmp_path / "data" / split / "a_red").rename(tmp_path / "data" / split / "d_red")
    again = [
        "finetune",
        "--checkpoint",
        toy / "mae.pth",
        "--data_path",
        tmp_path / "data",
        *more[2:],
    ]
    again += ["--output_dir", tmp_path, "--device", "cpu", "--num_workers", 0, "--resume", "auto"]
    assert evaluate(list(map(str, again))) == 2
    assert "is of 3 classes (a_red, b_green, c_blue); this run has 3" in capsys.readouterr().err


def test_a_probe_keeps_the_names(toy, tmp_path):
    pytest.importorskip("timm")
    data = ["--ffcv", tmp_path / "t.beton", "--val", toy / "others", "--epochs", 1]
    assert convert([str(toy / "data" / "train"), str(tmp_path / "t.beton"), "--workers", "1"]) == 0
    run(toy, "linear", tmp_path, *data, "--batch_size", 8)
    names = load_checkpoint(tmp_path / "checkpoint-last.pth")["args"]["classes"]
    assert names == NAMES


def test_all_but_the_labels_stays_as_it_was():
    """Also how images are cropped: whole ones, after a training with --crop none."""
    before = images([0, 1], ["cat", "dog"])
    before.whole, before.advice = True, "advice"
    after = match_classes(["ant", "cat", "dog"], before, 3)
    assert after.labels.tolist() == [1, 2] and before.labels.tolist() == [0, 1]
    assert after.fingerprint != before.fingerprint
    changed = {"labels", "classes", "fingerprint"}
    kept = vars(before).keys() - changed
    assert {k: vars(after)[k] for k in kept} == {k: vars(before)[k] for k in kept}
