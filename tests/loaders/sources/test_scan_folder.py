"""--data_path, --dali, evaluation and fastimae-convert read the same files of a folder."""

import logging
import shutil

import numpy as np
import pytest
from source_files import HEIC, find, jpeg, listed, little_is_spent, make_files, make_tar

from fastimae.evaluate.images import open_images
from fastimae.loaders.backends.dali_source import find_jpegs
from fastimae.loaders.errors import DataError
from fastimae.loaders.sources.image_files import scan_folder


def links(root):
    """Make folders with links in circles, none of which adds an image."""
    make_files(root, "a/1.jpg", "b/k/2.jpg")
    for link in ("a/self", "b/k/a", "b/k/b"):
        (root / link).symlink_to(".")


def classes(root):
    make_files(root, "b/x/1.jpg", "b/x-y/2.jpg", "a/3.jpe", "a/.4.jpg", "c/5.gif", "loose.jpg")


def splits(root):
    make_files(root, "train/a/1.jpg", "train/b/2.jpg", "val/a/3.jpg", "sample.jpg")


def a_class_called_train(root):
    make_files(root, "bus/1.jpg", "train/2.jpg")


def flat(root):
    make_files(root, "b.jpg", "a.png")


def tiny_imagenet_val(root):
    """Make Tiny-ImageNet's val, whose labels are in a text file."""
    make_files(root, "val/images/1.jpg", "val/images/2.jpg")
    (root / "wnids.txt").write_text("n1\nn0\n")
    (root / "val" / "val_annotations.txt").write_text("1.jpg\tn1\n2.jpg\tn0\n")
    return root / "val"


@pytest.mark.parametrize(
    "make", [links, classes, splits, a_class_called_train, flat, tiny_imagenet_val]
)
def test_all_readers_of_folders_agree(tmp_path, make):
    root = make(tmp_path / "data") or tmp_path / "data"
    with little_is_spent(seconds=5):
        source, folder = find(root, tmp_path), scan_folder(root)
    files = [item.path for item in source.items]
    expected = source.labels or [-1] * len(files)
    assert [folder.path(index) for index in range(len(files))] == files
    dali, images = find_jpegs(root), open_images(root)
    for labels in (folder.labels, dali.labels, images.labels):
        np.testing.assert_array_equal(labels, expected)
    assert [dali.name(index) for index in range(len(files))] == files
    assert (images.classes or []) == source.class_names


@pytest.mark.parametrize(
    "folder",
    [".ipynb_checkpoints", "__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "__pycache__"],
)
def test_system_folders_are_no_classes(tmp_path, folder):
    """At any depth, for all readers, even if they contain copies of images."""
    root = make_files(tmp_path / "data", "bus/1.jpg", "~cat/2.jpg", f"{folder}/3.jpg")
    make_files(root, f"bus/{folder}/1-checkpoint.jpg", f"bus/{folder}/deep/1.jpg")
    shutil.make_archive(str(tmp_path / "data"), "tar", root)
    packed, dali = find(tmp_path / "data.tar", tmp_path), find_jpegs(root)
    for labels in (scan_folder(root).labels, open_images(root).labels, dali.labels, packed.labels):
        assert list(labels) == [0, 1]
    assert packed.class_names == scan_folder(root).class_names == ["bus", "~cat"]


def test_class_names_are_those_of_the_labels(tmp_path):
    splits(tmp_path)
    assert open_images(tmp_path).classes == ["a", "b"]


def test_skipped_files_are_logged_in_a_few_lines(tmp_path, caplog):
    make_files(tmp_path, "train/a/1.jpg", "val/2.jpg")
    make_files(tmp_path, *(f"train/a/{number}.heic" for number in range(25)), content=HEIC)
    with caplog.at_level(logging.INFO, "fastimae"):
        assert len(scan_folder(tmp_path).files) == 1
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 20 + 1
    assert lines[0].endswith(
        "0.heic is left out: HEIC is not supported: convert it to JPEG or PNG first"
    )
    assert lines[-1] == "--data_path: 5 more are left out"


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (None, "FLAG .*data: there is no such folder"),
        (["a/x.txt"], "FLAG: no images in .*data"),
        (["0.tar", "1.tar"], "FLAG .*data: no image files, but tar files without labels"),
    ],
)
def test_error_names_the_flag(tmp_path, names, words):
    for name in names or ():
        make_tar(tmp_path / "data" / name, {"1.jpg": jpeg()})
    with pytest.raises(DataError, match=words):
        scan_folder(tmp_path / "data", "FLAG")


def test_dali_reads_a_folder_of_tar_files(tmp_path):
    for number in range(2):
        make_tar(tmp_path / "s" / f"{number}.tar", {"1.jpg": jpeg(number), "1.cls": b"%d" % number})
    encoded = find_jpegs(tmp_path / "s")
    assert encoded.labels.tolist() == [0, 1]
    assert [encoded.read(index) for index in range(2)] == [jpeg(0), jpeg(1)]
    assert listed(find(tmp_path / "s", tmp_path), tmp_path) == [("s/0.tar", 0), ("s/1.tar", 1)]


def test_a_missing_file_of_a_list_is_a_broken_image(tmp_path):
    root = tiny_imagenet_val(tmp_path)
    before = open_images(root).fingerprint
    (root / "images" / "2.jpg").unlink()
    images = open_images(root)
    assert len(images) == 2 and images.fingerprint != before
