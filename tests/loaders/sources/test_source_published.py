"""CIFAR and Tiny-ImageNet as published, intact and damaged."""

import io
import os
import pickle
import tarfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from source_files import find, listed, little_is_spent, make_files

from fastimae.loaders.errors import DataError


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


def damaged(root, batch, **changes):
    content = pickle.loads((root / batch).read_bytes())
    content |= {key.encode(): value for key, value in changes.items()}
    (root / batch).write_bytes(pickle.dumps(content, protocol=2))


PIXELS = np.zeros((3, 3072), np.uint8)
SPOILT = {
    "labels-move-on": ({"data": PIXELS}, {"labels": [0, 1, 0]}, "data_batch_1 has 3 images but 2"),
    "no-class": ({"labels": [0, 2]}, {}, "labels that name no class"),
    "fractions": ({"labels": [0, 0.5]}, {}, "labels that name no class"),
    "floats": ({"data": PIXELS[:2].astype(np.float32)}, {}, "damaged CIFAR-10"),
    "objects": ({"data": np.array([None] * 2)}, {}, "damaged CIFAR-10"),
    "shape": ({"data": PIXELS[:2, :99]}, {}, "damaged CIFAR-10"),
    "no-array": ({"data": [1, 2]}, {}, "damaged CIFAR-10"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_spoilt_cifar_is_one_line(tmp_path, name):
    root = tmp_path / "cifar-10-batches-py"
    make_cifar(root, *CIFAR[root.name])
    first, second, message = SPOILT[name]
    damaged(root, "data_batch_1", **first)
    damaged(root, "data_batch_2", **second)
    with pytest.raises(DataError, match=message) as caught:
        find(root, tmp_path)
    assert "\n" not in str(caught.value)


def test_cifar_with_a_missing_batch_names_it(tmp_path):
    root = tmp_path / "cifar-10-batches-py"
    make_cifar(root, *CIFAR[root.name])
    (root / "data_batch_3").unlink()
    with pytest.raises(DataError, match="CIFAR-10 without data_batch_3"):
        find(root, tmp_path)


@settings(max_examples=150, deadline=None)
@given(
    position=st.integers(0, 10_000),
    noise=st.binary(min_size=1, max_size=9),
    cut=st.integers(1, 6600),
)
def test_damaged_pickle_is_at_most_one_error(tmp_path_factory, position, noise, cut):
    root = tmp_path_factory.mktemp("c") / "cifar-100-python"
    make_cifar(root, *CIFAR[root.name])
    data = (root / "train").read_bytes()
    position %= len(data)
    (root / "train").write_bytes((data[:position] + noise + data[position + len(noise) :])[:cut])
    with little_is_spent():
        try:
            find(root, root)
        except DataError as error:
            assert "\n" not in str(error)


BOMBS = {
    "memo": b"\x80\x02}r\xff\xff\xff\x7f.",
    "array": b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
    b"(I9999999999\ntU\x01b\x87R.",
    "type": b"\x80\x02cnumpy\ndtype\nU\x02V9\x85R(K\x03U\x01|N(U\x01atU\x01a}I-9\nI-9\nK\x01tb.",
    "not-a-dictionary": b"\x80\x02K\x01.",
}


@pytest.mark.parametrize("name", BOMBS)
def test_pickle_cannot_make_numpy_or_the_unpickler_misbehave(tmp_path, name):
    root = tmp_path / "cifar-100-python"
    make_cifar(root, *CIFAR[root.name])
    (root / "train").write_bytes(BOMBS[name])
    with little_is_spent(), pytest.raises(DataError, match="damaged CIFAR-100 files"):
        find(root, tmp_path)


def test_tiny_imagenet_names_what_is_no_class(tmp_path):
    root = make_tiny_imagenet(tmp_path / "tiny")
    make_files(root, "train/n9/images/n9_0.JPEG")
    (root / "wnids.txt").write_text("n3\nn1\nn2\nn1\n")
    source = find(root, tmp_path)
    assert source.labels == [0, 1, 2]
    assert source.skipped == [(str(root / "train" / "n9"), "not a class in wnids.txt")]


@pytest.mark.parametrize("name", ["wnids.txt", "val/val_annotations.txt"])
def test_tiny_imagenet_with_a_damaged_list(tmp_path, name):
    root = make_tiny_imagenet(tmp_path / "tiny")
    (root / name).write_bytes(b"\xff\xfe\0")
    with pytest.raises(DataError, match=r"\.txt is damaged \(not UTF-8 text\)"):
        find(root / "val", tmp_path)
