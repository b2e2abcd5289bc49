"""Labels of ImageNet's validation images as downloaded, compared with torchvision's."""

import io
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import savemat
from source_files import SAFELY, find, make_files, make_tar
from torchvision.datasets import imagenet

from fastimae.loaders import BetonReader, DataError, create_loader
from fastimae.loaders.convert.run import ConvertOptions, convert
from fastimae.loaders.sources.find import find_source

WNIDS = ["n03000000", "n01440764", "n02000000", "n01000000", "n04000000"]
"""By ILSVRC2012_ID, from 1 on; the last two are of groups of classes."""
CLASSES = sorted(WNIDS[:3])
TRUTH = [3, 1, 1, 2, 3, 2]
LABELS = [CLASSES.index(WNIDS[number - 1]) for number in TRUTH]
IMAGES = [f"ILSVRC2012_val_{number:08}.JPEG" for number in range(1, len(TRUTH) + 1)]
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"


def meta():
    """Make a meta.mat, as bytes."""
    kinds = [(name, object) for name in ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children")]
    rows = np.array(
        [(number, wnid, f"word {number}", "gloss", 0 if number <= 3 else 2)
         for number, wnid in enumerate(WNIDS, 1)], kinds,
    )  # fmt: skip
    file = io.BytesIO()
    savemat(file, {"synsets": rows[:, None]})
    return file.getvalue()


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """Every accepted label file (devkit, its folder, the CSV), and images, flat and in a tar."""
    root = tmp_path_factory.mktemp("imagenet")
    truth = "".join(f"{number}\n" for number in TRUTH).encode()
    data = "ILSVRC2012_devkit_t12/data"
    members = {f"{data}/meta.mat": meta(), f"{data}/ILSVRC2012_validation_ground_truth.txt": truth}
    make_tar(root / "plain.tar", members)
    with tarfile.open(root / "plain.tar") as plain:
        plain.extractall(root, **SAFELY)
    make_tar(root / DEVKIT, members, format=tarfile.GNU_FORMAT)
    with tarfile.open(root / DEVKIT, "w:gz") as packed:
        packed.add(root / "ILSVRC2012_devkit_t12", "ILSVRC2012_devkit_t12")
    boxes = [f"{name[:-5]},{WNIDS[n - 1]} 1 2 3 4 {WNIDS[n - 1]} 5 6 7 8 "
             for name, n in zip(IMAGES, TRUTH, strict=True)]  # fmt: skip
    lines = ["ImageId,PredictionString", *reversed(boxes)]
    (root / "LOC_val_solution.csv").write_text("\r\n".join(lines) + "\r\n")
    make_files(root / "flat", *IMAGES)
    images = {name: (root / "flat" / name).read_bytes() for name in IMAGES}
    make_tar(root / "ILSVRC2012_img_val.tar", images)
    return root


FILES = [
    DEVKIT,
    "ILSVRC2012_devkit_t12",
    "ILSVRC2012_devkit_t12/data",
    "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt",
    "LOC_val_solution.csv",
]


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("src", ["ILSVRC2012_img_val.tar", "flat"])
def test_labels_are_those_of_the_training_folders(given, tmp_path, src, file):
    source = find_source(str(given / src), tmp_path, given / file)
    names = [Path(item.member or item.path).name for item in source.items]
    assert (names, source.labels, source.class_names) == (IMAGES, LABELS, CLASSES)


def test_the_reference_agrees(given, tmp_path, monkeypatch):
    """torchvision reads the same class of each image from the archive."""
    shutil.copy(given / DEVKIT, tmp_path)
    monkeypatch.setattr(
        imagenet, "_verify_archive", lambda *_: None
    )  # its checksum is not the real one's
    imagenet.parse_devkit_archive(str(tmp_path), DEVKIT)
    _, wnids = torch.load(tmp_path / "meta.bin", weights_only=True)
    assert [CLASSES[label] for label in LABELS] == wnids


def test_the_ground_truth_may_be_alone_with_meta_mat(given, tmp_path):
    data = given / "ILSVRC2012_devkit_t12" / "data"
    for meta_folder in ("same", "data", "../data"):
        folder = tmp_path / meta_folder.replace("/", "-") / "truth"
        folder.mkdir(parents=True)
        truth = shutil.copy(data / "ILSVRC2012_validation_ground_truth.txt", folder / "truth.txt")
        place = folder if meta_folder == "same" else folder / meta_folder
        with pytest.raises(DataError, match=r"meta\.mat.*is not beside it"):
            find_source(str(given / "flat"), None, truth)
        place.mkdir(exist_ok=True)
        shutil.copy(data / "meta.mat", place)
        assert find_source(str(given / "flat"), None, truth).labels == LABELS


def test_the_file_has_labels_and_names(given, tmp_path):
    options = {"src": str(given / "flat"), "workers": 1, "labels": given / DEVKIT}
    convert(ConvertOptions(out=tmp_path / "val.beton", **options))
    with BetonReader(tmp_path / "val.beton") as reader:
        assert reader.class_names == CLASSES
        assert sorted(reader.labels.tolist()) == sorted(LABELS)


def test_some_of_the_images_have_their_labels(given, tmp_path):
    few = make_files(tmp_path / "few", IMAGES[4], IMAGES[1])
    source = find_source(str(few), None, given / DEVKIT)
    assert source.labels == [LABELS[1], LABELS[4]] and source.class_names == CLASSES
    assert any("labels for 6 images; SRC has 2 of them" in note for note in source.notes)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["ILSVRC2012_val_00000007.JPEG", IMAGES[0]], "no label for 1 of the 2 images"),
        (["cat.jpg"], "no label for 1 of the 1 images, such as cat.jpg"),
        ([f"a/{IMAGES[0]}", f"b/{IMAGES[0]}"], "SRC already has labels"),
        (["ILSVRC2012_test_00000001.JPEG"], "no label for 1 of the 1 images"),
    ],
    ids=["too-many", "others", "in-classes", "test-set"],
)
def test_images_that_do_not_fit_are_one_error(given, tmp_path, names, message):
    root = make_files(tmp_path / "images", *names)
    with pytest.raises(DataError, match=f"--labels .*{message}"):
        find_source(str(root), None, given / DEVKIT)


def test_two_images_of_one_name_are_an_error(given, tmp_path):
    for number in range(2):
        shutil.copy(given / "ILSVRC2012_img_val.tar", tmp_path / f"{number}.tar")
    with pytest.raises(DataError, match="images of the same name"):
        find_source(f"{tmp_path}/*.tar", None, given / DEVKIT)


def no_meta(path):
    make_tar(path, {"data/ILSVRC2012_validation_ground_truth.txt": b"1\n"})


def bad_meta(path):
    members = {"ILSVRC2012_validation_ground_truth.txt": b"1\n", "meta.mat": b"no"}
    make_tar(path, members)


def group(path):
    make_tar(path, {"ILSVRC2012_validation_ground_truth.txt": b"1\n4\n", "meta.mat": meta()})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "there is no such file"),
        (os.mkfifo, "there is no such file"),
        (lambda path: path.mkdir(), "no ILSVRC2012_validation_ground_truth.txt in it"),
        (lambda path: path.write_text("ImageId,PredictionString\na,cat 1"), "line 2 names no"),
        (lambda path: path.write_text("filename,label\na,cat"), "not a label file"),
        (lambda path: path.write_text(f"{IMAGES[0]} 65\n{IMAGES[1]} 970\n"), "is a list file"),
        (lambda path: path.write_text("1\n2\n"), "meta.mat"),
        (lambda path: path.write_bytes(b"\x1f\x8b" + bytes(99)), "not a label file"),
        (no_meta, "no meta.mat in it"),
        (bad_meta, "meta.mat is damaged"),
        (group, "line 2 of the ground truth is '4', not the ILSVRC2012_ID of any of the 3"),
    ],
    ids=[
        "absent",
        "pipe",
        "empty",
        "csv",
        "other-csv",
        "pairs",
        "truth-alone",
        "gz",
        "no-meta",
        "bad-meta",
        "group",
    ],
)
def test_files_that_hold_no_labels_are_one_error(given, tmp_path, make, message):
    make(tmp_path / "labels")
    with pytest.raises(DataError, match=f"--labels .*({message})"):
        find_source(str(given / "flat"), None, tmp_path / "labels")


def test_a_csv_may_have_a_byte_order_mark_and_empty_lines(given, tmp_path):
    csv = (given / "LOC_val_solution.csv").read_bytes()
    (tmp_path / "labels.csv").write_bytes(b"\xef\xbb\xbf" + csv + b"\r\n")
    assert find_source(str(given / "flat"), None, tmp_path / "labels.csv").labels == LABELS


def test_without_them_a_note_says_how(given, tmp_path, caplog):
    for src in ("flat", "ILSVRC2012_img_val.tar"):
        (note,) = find(given / src, tmp_path).notes
        assert "--labels FILE" in note and DEVKIT in note and "LOC_val_solution.csv" in note
    test = make_files(tmp_path / "test", "ILSVRC2012_test_00000001.JPEG")
    (note,) = find(test, tmp_path).notes
    assert "test images, whose labels were never published" in note
    caplog.set_level("INFO", "fastimae")
    create_loader(data_path=given / "flat", batch_size=2, mix_group=0).close()
    assert "--labels FILE" in caplog.text and "6 images, no labels" in caplog.text


def test_labels_are_for_images(tmp_path):
    with pytest.raises(DataError, match="--labels x needs images to convert"):
        convert(ConvertOptions(src="a.beton", labels="x", verify=True))
