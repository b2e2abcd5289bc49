"""The line on a data set's content that every command and reader logs at the start."""

import re

import numpy as np
import pytest
from back_ends import INSTALLED
from hypothesis import given
from hypothesis import strategies as st
from source_files import jpeg, make_files, make_tar

from fastimae import cli
from fastimae.evaluate.images import open_images
from fastimae.loaders import create_loader
from fastimae.loaders.sources.describe import describe

CIFAR = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


@pytest.mark.parametrize(
    ("labels", "names", "expected"),
    [
        (range(10), CIFAR, "10 images, 10 classes (airplane, automobile, ... truck)"),
        ([0, 1, 1], ["a", "b"], "3 images, 2 classes (a, b)"),
        ([1, 1], ["a", "b", "c"], "2 images, 3 classes (a, b, c), 2 of them without images (a, c)"),
        ([0, 1, 2], [], "3 images, 3 classes by number (0 to 2)"),
        ([1, 2, 3], [], "3 images, 4 classes by number (0 to 3), 1 of them without images (0)"),
        ([0, 9], [], "2 images, 10 classes by number (0 to 9), 8 of them without images "
                     "(1, 2, 3, 4, 5, ...)"),
        ([0, -1, 1], ["a", "b"], "3 images, 2 classes (a, b), 1 images without a label"),
        ([-1, -1], [], "2 images, no labels"),
        (None, [], "7 images, no labels"),
        ([0], ["a\nb"], r"1 images, 1 classes (a\nb)"),
    ],
    ids=[
        "cifar", "few", "empty-classes", "numbers", "from-one", "gaps", "some", "unlabelled",
        "none", "line-break",
    ],
)  # fmt: skip
def test_the_line(labels, names, expected):
    count = 7 if labels is None else len(labels)
    assert describe(count, None if labels is None else list(labels), names) == expected


@given(st.lists(st.integers(-(2**62), 2**62), min_size=1))
def test_any_labels_are_described_quickly(labels):
    text = describe(len(labels), labels, [])
    found = {label for label in labels if label >= 0}
    if found:
        classes, missing = max(found) + 1, max(found) + 1 - len(found)
        assert f"{classes} classes by number (0 to {classes - 1})" in text
        assert (f"{missing} of them without images" in text) == bool(missing)
    else:
        assert text.endswith("no labels")


def write_list(folder):
    make_files(folder, "data/a.jpg", "data/b.jpg")
    (folder / "list.txt").write_text("data/a.jpg 0\ndata/b.jpg 1\n")
    return folder / "list.txt"


def write_shards(folder):
    return make_tar(
        folder / "s.tar", {"1.jpg": jpeg(), "1.cls": b"0", "2.jpg": jpeg(), "2.cls": b"1"}
    )


SOURCES = {
    "classes": (
        lambda root: make_files(root / "c", "cat/1.jpg", "dog/2.jpg"),
        "2 classes (cat, dog)",
    ),
    "splits": (
        lambda root: make_files(root / "s", "train/cat/1.jpg", "train/dog/2.jpg", "val/3.jpg"),
        "folder of class folders, {src}/train only: 2 images, 2 classes (cat, dog)",
    ),
    "flat": (lambda root: make_files(root / "f", "1.jpg", "2.jpg"), "2 images, no labels"),
    "list": (
        write_list,
        "list file with labels: 2 images, 2 classes by number (0 to 1)",
    ),
    "shards": (write_shards, "WebDataset shards with .cls labels: 2 images, 2 classes by number"),
}


FOLDERS = ("classes", "splits", "flat")


@pytest.mark.parametrize("kind", SOURCES)
def test_all_readers_log_it(tmp_path, kind, caplog):
    make, expected = SOURCES[kind]
    src, beton = make(tmp_path), tmp_path / "out.beton"
    expected = expected.format(src=src)

    def told(action):
        """Return the lines about the data; none of the others repeats a part of it."""
        caplog.clear()
        action()
        lines = [line.getMessage() for line in caplog.records]
        data = [line for line in lines if re.search(r" images, (no|\d+ cl)", line)]
        assert not [line for line in lines if line not in data and "/train" in line]
        return data

    caplog.set_level("INFO", "fastimae")
    settings = {"batch_size": 2, "mix_group": 0, "num_workers": 0, "input_size": (8, 8)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fastimae.arguments._log_to_stderr", lambda: None)
        (line,) = told(lambda: cli.convert([str(src), str(beton), "--workers", "1"]))[:1]
    assert str(src) in line and expected in line
    readers = {"ffcv": beton}
    if kind in FOLDERS:
        readers["data_path"] = src
    if "nvidia-dali" in INSTALLED:
        readers["dali"] = src
    for flag, path in readers.items():
        (line,) = told(lambda f=flag, p=path: create_loader(**{f: p}, **settings).close())
        assert str(path) in line and expected.rpartition(": ")[2] in line
    for path in {beton, *([src] if kind in FOLDERS else [])}:
        (line,) = told(lambda p=path: open_images(p))
        assert str(path) in line and expected.rpartition(": ")[2] in line
    assert np.all(open_images(beton).labels >= 0) == (kind != "flat")


def test_synthetic_images_are_one_line_too(caplog):
    caplog.set_level("INFO", "fastimae")
    settings = {"batch_size": 2, "mix_group": 0, "input_size": (8, 8), "synthetic_samples": 20}
    create_loader(synthetic=True, **settings).close()
    create_loader(synthetic=True, tell=False, **settings).close()
    create_loader(synthetic=True, rank=1, world_size=2, **settings).close()
    words = "--synthetic: colour patterns in memory: 20 images, 10 classes by number (0 to 9)"
    assert [line.getMessage() for line in caplog.records] == [words]
