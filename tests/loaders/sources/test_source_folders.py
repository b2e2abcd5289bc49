"""Images in folders, among links and files that are not images."""

import io
import os
import socket
from pathlib import Path

import pytest
from PIL import Image, features
from source_files import HEIC, find, jpeg, listed, make_files, make_tar, reasons

from fastimae.loaders.errors import DataError
from fastimae.loaders.images.formats import looks_like_image, unsupported_format


@pytest.mark.parametrize(
    "names",
    [
        ["b/2.jpg", "a/deep/1.png", "a/0.JPEG", "c c/é.webp"],
        ["c/x/1.jpg", "c/x-y/2.jpg", "c/x.z/3.jpg", "c/x/4/5.jpg", "c/9.jpg", "c/x0/6.jpg"],
        ["n2/b.JPG", "n2/a.jpg", "n10/10.jpg", "n10/9.jpg", "N1/Z.Png", "N1/z.pNg", "n 1/1.TIF"],
    ],
    ids=["nested", "beside_dots", "upper_case"],
)
def test_order_and_labels_are_torchvisions(tmp_path, names):
    datasets = pytest.importorskip("torchvision.datasets")
    root = make_files(tmp_path / "data", *names)
    (root / "empty").mkdir()
    source = find(root, tmp_path)
    reference = datasets.ImageFolder(root, allow_empty=True)
    expected = [(os.path.relpath(path, root), label) for path, label in reference.samples]
    assert listed(source, root) == expected
    assert source.class_names == reference.classes


def test_flat_folder_has_no_labels(tmp_path):
    root = make_files(tmp_path / "data", "b.jpg", "a.png", ".hidden.jpg", "._mac.jpg")
    make_files(root, "notes.txt", content=b"hello")
    source = find(root, tmp_path)
    assert listed(source, root) == [("a.png", None), ("b.jpg", None)]
    assert source.labels is None


def test_images_with_unknown_extensions_are_recognised_by_content(tmp_path):
    root = make_files(tmp_path / "data", "a/no_suffix", "a/image.dat")
    make_files(root, "a/readme.md", content=b"text")
    assert [name for name, _ in listed(find(root, tmp_path), root)] == [
        "a/image.dat",
        "a/no_suffix",
    ]


def test_loose_images_beside_class_folders_are_reported(tmp_path):
    root = make_files(tmp_path / "data", "a/1.jpg", "loose.jpg")
    source = find(root, tmp_path)
    assert listed(source, root) == [("a/1.jpg", 0)]
    assert source.skipped == [(str(root / "loose.jpg"), "not in a class folder")]


def test_train_alone_is_a_split_and_the_kind_says_so(tmp_path):
    root = make_files(
        tmp_path / "data", "train/a/1.jpg", "train/b/2.jpg", "val/3.jpg", "test/4.jpg"
    )
    make_files(root, "annotations/list.txt", content=b"text")
    source = find(root, tmp_path)
    assert listed(source, root) == [("train/a/1.jpg", 0), ("train/b/2.jpg", 1)]
    assert source.kind == f"folder of class folders, {root / 'train'} only"


@pytest.mark.parametrize(
    "names",
    [["val/a/1.jpg", "test/a/2.jpg"], ["val/1.jpg", "test/2.jpg"]],
    ids=["with-classes", "flat"],
)
@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_parts_without_train_are_no_classes(tmp_path, names, kind):
    root = make_files(tmp_path / "data", *names)
    (root / "a").mkdir()
    if kind == "tar":
        make_tar(tmp_path / "data.tar", {name: (root / name).read_bytes() for name in names})
        root = tmp_path / "data.tar"
    with pytest.raises(DataError, match=r"data(\.tar)? has images in test, val only.*one of them"):
        find(root, tmp_path)


def test_one_part_alone_is_no_class(tmp_path):
    root = make_files(tmp_path / "data", "val/a/1.jpg", "val/b/2.jpg")
    with pytest.raises(DataError, match="has images in val only"):
        find(root, tmp_path)
    assert find(root / "val", tmp_path).class_names == ["a", "b"]


def test_files_of_other_kinds_are_counted(tmp_path):
    root = make_files(tmp_path / "data", "train/a/1.jpg", "train/b/2.jpg", "val/3.jpg")
    make_files(
        root, "a.txt", "train/b.txt", "train/a/deep/c.txt", "train/a/.d", "train/a/clip.mp4",
        "train/b/e.tar", "train/b/f", content=b"text",
    )  # fmt: skip
    note = "ignored, also as labels: 3 .txt, 1 .mp4, 1 .tar, 1 without extension"
    assert find(root, tmp_path).notes == [note]
    for name in ("train/a/1.jpg", "train/b/2.jpg", "val/3.jpg"):
        (root / name).unlink()
    with pytest.raises(DataError, match=note):
        find(root, tmp_path)


def test_a_class_called_train_is_a_class(tmp_path):
    root = make_files(tmp_path / "data", "bus/1.jpg", "train/2.jpg")
    assert listed(find(root, tmp_path), root) == [("bus/1.jpg", 0), ("train/2.jpg", 1)]


def test_train_beside_another_split_is_a_split_whatever_else_is_there(tmp_path):
    root = make_files(tmp_path / "data", "train/a/1.jpg", "val/a/2.jpg", "figures/3.jpg")
    source = find(root, tmp_path)
    assert listed(source, root) == [("train/a/1.jpg", 0)]
    assert source.kind == f"folder of class folders, {root}/train only"


def test_a_note_says_that_train_is_a_class(tmp_path):
    """A user who meant it as a split should notice."""
    root = make_files(tmp_path / "data", "train/a/1.jpg", "figures/3.jpg")
    source = find(root, tmp_path)
    assert source.class_names == ["figures", "train"]
    assert f"treating {root}/train as a class, as figures has images too" in source.notes[0]


def test_loose_images_beside_splits_are_reported(tmp_path):
    root = make_files(tmp_path / "data", "train/a/1.jpg", "val/a/2.jpg", "sample.jpg")
    source = find(root, tmp_path)
    assert listed(source, root) == [("train/a/1.jpg", 0)]
    assert reasons(source) == {"sample.jpg": "not in a class folder"}


def test_links_to_folders_that_are_already_read_are_listed(tmp_path):
    """Otherwise images would get the labels of other classes."""
    root = make_files(tmp_path / "data", "train/a/1.jpg", "train/b/2.jpg", "val/a/3.jpg")
    for link, target in {"b/up": "..", "b/top": "../..", "a/b": "../b", "self": "."}.items():
        (root / "train" / link).symlink_to(target)
    (root / "notes").mkdir()
    (root / "notes" / "up").symlink_to("..")
    source = find(root, tmp_path)
    assert listed(source, root) == [("train/a/1.jpg", 0), ("train/b/2.jpg", 1)]
    known = "a link to a folder that is already read"
    assert reasons(source) == dict.fromkeys(("up", "top", "b", "self"), known)


def test_link_back_up_ends(tmp_path):
    root = make_files(tmp_path / "data", "a/1.jpg")
    (root / "a" / "again").symlink_to(root / "a")
    assert listed(find(root, tmp_path), root) == [("a/1.jpg", 0)]


def test_broken_links_and_special_files_are_listed(tmp_path):
    root = make_files(tmp_path / "data", "a/1.jpg", "b/2.jpg")
    for link, target in {
        "a/broken.jpg": "gone.jpg", "a/self.jpg": "self.jpg", "a/ping": "pong", "a/pong": "ping",
        "dangling": "gone", "own": "own", "b/up": "..", "a/fine.jpg": "1.jpg",
    }.items():  # fmt: skip
        (root / link).symlink_to(target)
    os.mkfifo(root / "b" / "pipe.jpg")
    os.mkfifo(root / "b" / "pipe")
    (root / "b" / "to_pipe.jpg").symlink_to("pipe")
    with socket.socket(socket.AF_UNIX) as server:
        here = os.open(root / "b", os.O_RDONLY)
        server.bind(f"/proc/self/fd/{here}/socket.jpg")
        os.close(here)
    source = find(root, tmp_path)
    assert listed(source, root) == [("a/1.jpg", 0), ("a/fine.jpg", 0), ("b/2.jpg", 1)]
    assert source.class_names == ["a", "b"]
    circle = "cannot be read: Too many levels of symbolic links"
    expected = {
        "broken.jpg": "a broken link", "self.jpg": circle, "ping": circle, "pong": circle,
        "dangling": "a broken link", "own": circle, "pipe.jpg": "not a file",
        "to_pipe.jpg": "not a file", "socket.jpg": "not a file",
        "up": "a link to a folder that is already read",
    }  # fmt: skip
    assert {name: reasons(source).get(name) for name in expected} == expected


@pytest.mark.parametrize("what", ["scandir", "stat"])
def test_folder_that_cannot_be_read_is_listed(tmp_path, monkeypatch, what):
    """With a mocked system call, because the superuser can read everything."""
    root = make_files(tmp_path / "data", "a/1.jpg", "b/locked/2.jpg", "c/3.jpg")
    owner, real = {"scandir": (os, os.scandir), "stat": (Path, Path.stat)}[what]

    def refusing(path, **options):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, **options)

    monkeypatch.setattr(owner, what, refusing)
    source = find(root, tmp_path)
    assert listed(source, root) == [("a/1.jpg", 0), ("c/3.jpg", 2)]
    assert reasons(source) == {"locked": "cannot be read: Permission denied"}


def test_unprintable_names_are_escaped(tmp_path):
    root = make_files(tmp_path / "data", "a/1.jpg", "b/two\nlines.jpg", "b/\x1b[2J.heic")
    latin = os.fsdecode(b"b/caf\xe9.jpg")
    make_files(root, latin)
    source = find(root, tmp_path)
    assert {item.read() for item in source.items} == {jpeg()}
    shown = [item.name for item in source.items] + [name for name, _ in source.skipped]
    assert len(shown) == 4
    assert all(name.isprintable() for name in shown)


FOREIGN = {
    "a.heic": (HEIC, "HEIC"),
    "no_suffix": (HEIC, "HEIC"),
    "a.jxl": (b"\xff\x0a" + bytes(30), "JPEG XL"),
    "a.svg": (b'<?xml version="1.0"?>\n<!-- x -->\n<svg width="1"/>', "SVG"),
    "a.psd": (b"8BPS\0\1", "Photoshop"),
    "a.exr": (b"v/1\x01", "OpenEXR"),
    "a.hdr": (b"#?RADIANCE\n", "Radiance HDR"),
    "a.cr2": (b"II*\0\x10\0\0\0CR\x02\0", "a camera's raw format"),
    "a.nef": (b"MM\0*" + bytes(30), "a camera's raw format"),
    "empty.dng": (b"", "a camera's raw format"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_unsupported_format_is_named_with_a_remedy(tmp_path, name):
    content, kind = FOREIGN[name]
    root = make_files(make_files(tmp_path / "data", "c/1.jpg"), f"c/{name}", content=content)
    source = find(root, tmp_path)
    assert listed(source, root) == [("c/1.jpg", 0)]
    assert reasons(source) == {name: f"{kind} is not supported: convert it to JPEG or PNG first"}
    (root / "c/1.jpg").unlink()
    with pytest.raises(DataError, match=f"no images in .*{kind} is not supported: convert it"):
        find(root, tmp_path)


def test_content_decides_not_the_name(tmp_path):
    root = make_files(tmp_path / "data", "jpeg_within.heic", "jpeg_within.dng")
    make_files(root, "sound", content=b"RIFF\0\0\0\0WAVEfmt ")
    make_files(root, "text.md", content=b"see <svg>")
    source = find(root, tmp_path)
    assert listed(source, root) == [("jpeg_within.dng", None), ("jpeg_within.heic", None)]
    assert not source.skipped


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "AVIF", "TIFF", "GIF", "BMP", "PPM"])
def test_supported_formats_are_not_called_unsupported(kind):
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("Pillow has no AVIF")
    buffer = io.BytesIO()
    Image.new("RGB", (9, 9)).save(buffer, kind)
    assert unsupported_format(buffer.getvalue()) is None
    assert looks_like_image(buffer.getvalue()) == (kind not in ("BMP", "PPM"))


def test_masks_in_folders_are_images_as_in_torchvision_and_a_note_says_so(tmp_path):
    root = make_files(tmp_path / "data", "c/a.jpg", "c/a.seg.png", "c/a.1.jpg", "d/b.jpg")
    source = find(root, tmp_path)
    assert len(source.items) == 4
    assert len(source.notes) == 1
    assert "like another part of the image beside them: 1, such as " in source.notes[0]
    assert "c/a.seg.png" in source.notes[0]


def test_loose_heic_beside_a_split_is_listed(tmp_path):
    root = make_files(make_files(tmp_path / "d", "train/a/1.jpg"), "x.heic", content=HEIC)
    assert set(reasons(find(root, tmp_path))) == {"x.heic"}
