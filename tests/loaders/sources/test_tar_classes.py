"""A tree of folders gets the same labels on disk, in one tar file and in several."""

import posixpath
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from source_files import HEIC, find, in_tar, jpeg, listed, make_files, make_tar, reasons

from fastimae.loaders.errors import DataError

CLASS = st.sampled_from(["a", "b", "c-d", "x", "train", "val", "test", ".hidden", "__MACOSX"])
FILE = st.sampled_from(["1.jpg", "2.PNG", "3.heic", "4.txt", ".5.jpg"])
PATHS = st.lists(st.tuples(CLASS, st.lists(CLASS, max_size=3), FILE), max_size=8)
CONTENT = {".heic": HEIC, "4.txt": b"text"}
LOOSE = st.sampled_from(["0.jpg", "0.heic", None])


def write(root, paths):
    for path in paths:
        make_files(root, path, content=CONTENT.get(path[-5:]))
    return root


def as_tars(root, paths, tars):
    """Distribute the files over the archives in turn; folders also go into the last."""
    for number in range(tars):
        with tarfile.open(root.parent / "tars" / f"{number}.tar", "w") as tar:
            for path in paths[number::tars]:
                tar.add(root / path, path)
            if number == tars - 1:
                for folder in sorted(root.rglob("*")):
                    if folder.is_dir():
                        tar.add(folder, folder.relative_to(root), recursive=False)


@settings(max_examples=150, deadline=None)
@given(paths=PATHS, loose=LOOSE, tars=st.integers(1, 3))
def test_as_folder_and_as_tars(paths, loose, tars):
    paths = [posixpath.join(top, *deep, name) for top, deep, name in paths]
    paths = sorted({*paths, "a/1.jpg", "b/1.jpg", *filter(None, [loose])})
    with TemporaryDirectory() as place:
        root = write(Path(place) / "data", paths)
        (Path(place) / "tars").mkdir()
        as_tars(root, paths, tars)
        folder, packed = (found_in(source, place) for source in (root, Path(place) / "tars"))
    if folder is None or packed is None:  # train has no images
        assert folder is packed
        return
    assume(not any("are parts" in note for note in packed.notes))
    assert packed.class_names == folder.class_names
    assert sorted(in_tar(packed).items()) == sorted(listed(folder, root))
    if "only" not in packed.kind:  # all of a tar is read, but not all of a folder
        assert sorted(reasons(packed).values()) == sorted(reasons(folder).values())


def found_in(source, place):
    """Find the images; None if there are none."""
    try:
        return find(source, Path(place))
    except DataError:
        return None


def found(tmp_path, **archives):
    for name, paths in archives.items():
        make_tar(tmp_path / "s" / f"{name}.tar", dict.fromkeys(paths, jpeg()))
    return find(tmp_path / "s", tmp_path)


@pytest.mark.parametrize("root", ["", "d/", "d/e/"])
def test_class_is_the_first_folder_in_the_top_one(tmp_path, root):
    source = found(
        tmp_path, all=[f"{root}{name}" for name in ("a/x/1.jpg", "a/y/2.jpg", "b/x/1.jpg")]
    )
    assert source.class_names == ["a", "b"]
    assert source.labels == [0, 0, 1]


def test_train_is_a_split_even_if_val_has_no_classes(tmp_path):
    source = found(
        tmp_path, tiny=["d/train/n1/images/1.jpg", "d/train/n2/images/2.jpg", "d/val/images/3.jpg"]
    )
    assert in_tar(source) == {"d/train/n1/images/1.jpg": 0, "d/train/n2/images/2.jpg": 1}
    assert source.class_names == ["n1", "n2"]
    assert source.kind == "tar files with class folders, train/ only (of train, val)"


def test_splits_in_separate_archives(tmp_path):
    source = found(tmp_path, t=["train/a/1.jpg", "train/b/2.jpg"], v=["val/a/1.jpg", "val/b/2.jpg"])
    assert in_tar(source) == {"train/a/1.jpg": 0, "train/b/2.jpg": 1}


def test_a_class_called_train_in_a_tar_is_a_class(tmp_path):
    source = found(tmp_path, t=["bus/1.jpg", "train/2.jpg"])
    assert source.labels == [0, 1]
    assert source.notes == ["treating train/ as a class, as bus/ has images too"]


def test_classes_in_separate_archives(tmp_path):
    source = found(tmp_path, x=["cat/1.jpg", "cat/deep/2.jpg"], y=["dog/1.jpg"])
    assert source.class_names == ["cat", "dog"]
    assert source.labels == [0, 0, 1]


def test_parts_of_a_data_set_under_other_names(tmp_path):
    """Classes with the same name are merged."""
    source = found(
        tmp_path, p0=["d0/cat/1.jpg", "d0/dog/2.jpg"], p1=["d1/dog/3.jpg", "d1/eel/4.jpg"]
    )
    assert source.class_names == ["cat", "dog", "eel"]
    assert source.labels == [0, 1, 1, 2]
    assert "are parts of one data set" in source.notes[0]


def test_class_whose_images_are_not_read_keeps_its_number(tmp_path):
    members = {"a/1.heic": HEIC, "b/2.jpg": jpeg(), "c/3.jpg": jpeg()}
    source = find(make_tar(tmp_path / "x.tar", members), tmp_path)
    assert (source.labels, source.class_names) == ([1, 2], ["a", "b", "c"])


def test_damaged_archive_of_a_class_keeps_its_number(tmp_path):
    whole = make_tar(tmp_path / "n.tar", {"1.jpg": jpeg()}).read_bytes()
    members = {"n0.tar": b"no archive", "n1.tar": whole, "n2.tar": whole}
    source = find(make_tar(tmp_path / "x.tar", members), tmp_path)
    assert (source.labels, source.class_names) == ([1, 2], ["n0", "n1", "n2"])


@pytest.mark.parametrize("members", [["1.jpg"], ["images/1.jpg"]], ids=["flat", "one_folder"])
def test_several_tar_files_without_classes_are_noted(tmp_path, members):
    source = found(tmp_path, n0=members, n1=members)
    assert source.labels is None
    assert source.notes[0].startswith("several tar files without class folders or labels: they")
    assert not found(tmp_path / "one", n0=members).notes
