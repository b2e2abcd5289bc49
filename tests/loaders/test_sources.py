"""What the user gave is recognised, and its images and labels are listed."""

import gzip
import io
import os
import pickle
import tarfile

import numpy as np
import pytest
from PIL import Image

from fastimae.loaders.errors import DataError
from fastimae.loaders.sources import expand_pattern, find_source


def jpeg(shade=0):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 0, 0)).save(buffer, "JPEG")
    return buffer.getvalue()


def make_files(root, *names, content=None):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg() if content is None else content)
    return root


def find(src, tmp_path):
    return find_source(str(src), tmp_path / "scratch")


def listed(source, root):
    labels = source.labels or [None] * len(source.items)
    names = [os.path.relpath(item.path, root) for item in source.items]
    return list(zip(names, labels, strict=True))


def test_class_folders_are_numbered_as_torchvision_does(tmp_path):
    datasets = pytest.importorskip("torchvision.datasets")
    root = make_files(tmp_path / "data", "b/2.jpg", "a/deep/1.png", "a/0.JPEG", "c c/é.webp")
    source = find(root, tmp_path)
    reference = datasets.ImageFolder(root)
    assert dict(listed(source, root)) == {
        os.path.relpath(path, root): label for path, label in reference.samples
    }
    assert source.class_names == reference.classes


def test_flat_folder_has_no_labels(tmp_path):
    root = make_files(tmp_path / "data", "b.jpg", "a.png", ".hidden.jpg", "._mac.jpg")
    make_files(root, "notes.txt", content=b"hello")
    source = find(root, tmp_path)
    assert listed(source, root) == [("a.png", None), ("b.jpg", None)]
    assert source.labels is None


def test_images_are_known_by_content_under_strange_names(tmp_path):
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


def test_train_is_taken_where_there_is_nothing_else_and_said(tmp_path):
    root = make_files(
        tmp_path / "data", "train/a/1.jpg", "train/b/2.jpg", "val/3.jpg", "test/4.jpg"
    )
    make_files(root, "annotations/list.txt", content=b"text")
    source = find(root, tmp_path)
    assert listed(source, root) == [("train/a/1.jpg", 0), ("train/b/2.jpg", 1)]
    assert str(root / "train") in source.notes[0]


def test_a_class_called_train_is_a_class(tmp_path):
    root = make_files(tmp_path / "data", "bus/1.jpg", "train/2.jpg")
    assert listed(find(root, tmp_path), root) == [("bus/1.jpg", 0), ("train/2.jpg", 1)]


def test_link_back_up_ends(tmp_path):
    root = make_files(tmp_path / "data", "a/1.jpg")
    (root / "a" / "again").symlink_to(root / "a")
    assert listed(find(root, tmp_path), root) == [("a/1.jpg", 0)]


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("data/a.jpg 3\n\n# remark\ndata/with space.jpg\t1\n", [3, 1]),
        ("data/a.jpg\ndata/with space.jpg", None),
    ],
)
def test_list_file(tmp_path, text, labels):
    root = make_files(tmp_path / "data", "a.jpg", "with space.jpg")
    (tmp_path / "list.txt").write_text(text)
    source = find(tmp_path / "list.txt", tmp_path)
    assert [item.path for item in source.items] == [
        str(root / "a.jpg"),
        str(root / "with space.jpg"),
    ]
    assert source.labels == labels


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a.jpg 1\nb.jpg\n", "label on 1 of its 2 lines"),
        (b"PK\x03\x04\xff\xfe", "neither a folder, a tar file nor a text file"),
        (b"", "no images"),
    ],
)
def test_unusable_list_file(tmp_path, content, message):
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(DataError, match=message):
        find(tmp_path / "list.txt", tmp_path)


def test_nothing_there(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images"):
        find(tmp_path / "empty", tmp_path)
    with pytest.raises(DataError, match=r"no file or folder .*absent"):
        find(tmp_path / "absent", tmp_path)


def make_tar(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def test_webdataset_shards(tmp_path):
    for shard in range(2):
        members = {}
        for number in range(3):
            members[f"{shard}{number}.input.jpg"] = jpeg(number)
            members[f"{shard}{number}.cls"] = str(10 * shard + number).encode()
            members[f"{shard}{number}.json"] = b"{}"
        make_tar(tmp_path / "shards" / f"s-{shard:02}.tar", members)
    for src in ("shards", "shards/s-{00..01}.tar", "shards/s-*.tar"):
        source = find(tmp_path / src, tmp_path)
        assert source.labels == [0, 1, 2, 10, 11, 12]
        assert [item.read() for item in source.items] == [jpeg(n) for n in (0, 1, 2)] * 2


def test_shard_image_without_class_is_reported(tmp_path):
    path = make_tar(
        tmp_path / "a.tar",
        {"0.jpg": jpeg(), "0.cls": b"4", "1.jpg": jpeg(), "2.jpg": jpeg(), "2.cls": b"cat"},
    )
    source = find(path, tmp_path)
    assert source.labels == [4]
    assert [name for name, _ in source.skipped] == [f"{path}:1.jpg", f"{path}:2.jpg"]


@pytest.mark.parametrize("compress", [False, True])
def test_tar_of_class_folders(tmp_path, compress):
    members = {"d/b/1.jpg": jpeg(1), "d/a/2.jpg": jpeg(2), "d/a/._2.jpg": b"", "d/x.txt": b""}
    path = make_tar(tmp_path / "a.tar", members)
    if compress:
        path = path.with_suffix(".tar.gz")
        path.write_bytes(gzip.compress((tmp_path / "a.tar").read_bytes()))
    source = find(path, tmp_path)
    assert source.labels == [1, 0]
    assert source.class_names == ["a", "b"]
    assert [item.read() for item in source.items] == [jpeg(1), jpeg(2)]


def test_tar_with_splits_gives_train(tmp_path):
    path = make_tar(
        tmp_path / "a.tar",
        {f"d/{split}/{name}/1.jpg": jpeg() for split in ("train", "val") for name in "ab"},
    )
    source = find(path, tmp_path)
    assert [item.member for item in source.items] == ["d/train/a/1.jpg", "d/train/b/1.jpg"]
    assert "took train/ only" in source.notes[0]


def test_tar_of_one_folder_has_no_labels(tmp_path):
    path = make_tar(tmp_path / "a.tar", {"images/1.jpg": jpeg(), "images/2.jpg": jpeg()})
    assert find(path, tmp_path).labels is None


def test_tar_of_tars_as_imagenet_is_published(tmp_path):
    inner = {
        name: make_tar(tmp_path / name, {f"{name[:4]}_{i}.JPEG": jpeg(i) for i in (5, 6)})
        for name in ("n002.tar", "n001.tar")
    }
    path = make_tar(tmp_path / "train.tar", {name: tar.read_bytes() for name, tar in inner.items()})
    source = find(path, tmp_path)
    assert source.class_names == ["n001", "n002"]
    assert source.labels == [1, 1, 0, 0]
    assert [item.read() for item in source.items] == [jpeg(5), jpeg(6)] * 2


def test_cut_tar_is_used_as_far_as_it_goes_and_reported(tmp_path):
    path = make_tar(tmp_path / "a.tar", {f"{i}.jpg": jpeg(i) for i in range(4)})
    path.write_bytes(path.read_bytes()[: 2 * (512 + 1024) + 512 + 100])
    source = find(path, tmp_path)
    assert [item.member for item in source.items] == ["0.jpg", "1.jpg"]
    assert "2.jpg has " in source.skipped[0][1]
    path.write_bytes(b"\x1f\x8b" + bytes(50))
    with pytest.raises(DataError, match=r"a\.tar"):
        find(path, tmp_path)


def test_missing_shard(tmp_path):
    make_tar(tmp_path / "s-8.tar", {"1.jpg": jpeg()})
    with pytest.raises(DataError, match=r"s-9\.tar"):
        expand_pattern(f"{tmp_path}/s-{{8..9}}.tar")


def test_braces_expand_as_in_a_shell(tmp_path):
    names = ["a09.tar", "a10.tar", "b09.tar", "b10.tar"]
    make_files(tmp_path, *names)
    assert expand_pattern(f"{tmp_path}/{{a,b}}{{09..10}}.tar") == [tmp_path / n for n in names]


def make_cifar(root, batches, meta, label_key, names_key):
    rng = np.random.default_rng(0)
    root.mkdir(parents=True)
    images, labels = [], []
    for batch in batches:
        pixels = rng.integers(0, 256, (2, 3, 32, 32), dtype=np.uint8)
        numbers = rng.integers(0, 2, 2).tolist()
        content = {b"data": pixels.reshape(2, 3072), label_key: numbers}
        (root / batch).write_bytes(pickle.dumps(content, protocol=2))
        images += list(pixels.transpose(0, 2, 3, 1))
        labels += numbers
    (root / meta).write_bytes(pickle.dumps({names_key: [b"cat", b"dog"]}, protocol=2))
    return images, labels


CIFAR = {
    "cifar-10-batches-py": (
        [f"data_batch_{i}" for i in range(1, 6)],
        "batches.meta",
        b"labels",
        b"label_names",
    ),
    "cifar-100-python": (["train"], "meta", b"fine_labels", b"fine_label_names"),
}


@pytest.mark.parametrize("name", CIFAR)
@pytest.mark.parametrize("form", ["folder", "parent", "tar.gz"])
def test_cifar_as_published(tmp_path, name, form):
    images, labels = make_cifar(tmp_path / "down" / name, *CIFAR[name])
    src = {"folder": tmp_path / "down" / name, "parent": tmp_path / "down"}.get(form)
    if src is None:
        src = tmp_path / "cifar.tar.gz"
        with tarfile.open(src, "w:gz") as tar:
            tar.add(tmp_path / "down" / name, name)
    source = find(src, tmp_path)
    assert (source.labels, source.class_names) == (labels, ["cat", "dog"])
    for item, image in zip(source.items, images, strict=True):
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(item.read()))), image)


class Evil:
    def __reduce__(self):
        return os.mkdir, ("hacked",)


def test_cifar_pickle_cannot_run_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "cifar-100-python"
    make_cifar(root, *CIFAR["cifar-100-python"])
    (root / "train").write_bytes(pickle.dumps({b"data": Evil()}))
    with pytest.raises(DataError, match=r"damaged CIFAR-100 files: it asks for \w+\.mkdir"):
        find(root, tmp_path)
    assert not (tmp_path / "hacked").exists()


def make_tiny_imagenet(root):
    (root / "val").mkdir(parents=True)
    (root / "wnids.txt").write_text("n3\nn1\nn2\n")
    make_files(root, *(f"train/{wnid}/images/{wnid}_0.JPEG" for wnid in ("n1", "n2", "n3")))
    make_files(root, "val/images/val_0.JPEG", "val/images/val_1.JPEG", "test/images/t.JPEG")
    lines = ["val_0.JPEG\tn3\t0\t0\t62\t57", "val_1.JPEG\tn1\t1\t2\t3\t4"]
    (root / "val" / "val_annotations.txt").write_text("\n".join(lines))
    return root


def test_tiny_imagenet_labels_agree_between_train_and_val(tmp_path):
    root = make_tiny_imagenet(tmp_path / "tiny-imagenet-200")
    train = [(f"train/n{i}/images/n{i}_0.JPEG", i - 1) for i in (1, 2, 3)]
    assert listed(find(root, tmp_path), root) == train
    assert listed(find(root / "train", tmp_path), root) == train
    val = find(root / "val", tmp_path)
    assert listed(val, root) == [("val/images/val_0.JPEG", 2), ("val/images/val_1.JPEG", 0)]
    assert val.class_names == ["n1", "n2", "n3"]


def test_tiny_imagenet_with_a_class_removed_keeps_its_labels(tmp_path):
    root = make_tiny_imagenet(tmp_path / "tiny")
    (root / "train/n2/images/n2_0.JPEG").unlink()
    (root / "train/n2/images").rmdir()
    (root / "train/n2").rmdir()
    assert find(root, tmp_path).labels == [0, 2]


def test_tiny_imagenet_annotation_of_an_unknown_class(tmp_path):
    root = make_tiny_imagenet(tmp_path / "tiny")
    (root / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn9\n")
    with pytest.raises(DataError, match="line 1 names no class"):
        find(root / "val", tmp_path)
