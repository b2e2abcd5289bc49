"""Images and labels in tar files: class folders, WebDataset shards, nested archives."""

import bz2
import gzip
import lzma
import os
import random
import resource
import tarfile

import pytest
from source_files import HEIC, find, header, in_tar, jpeg, little_is_spent, make_tar, reasons

from fastimae.loaders.convert.run import ConvertOptions, convert
from fastimae.loaders.errors import DataError


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
    assert source.kind == "tar files with class folders, train/ only (of train, val)"


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
    assert "2.jpg should have " in source.skipped[0][1]
    path.write_bytes(b"\x1f\x8b" + bytes(50))
    with pytest.raises(DataError, match=r"a\.tar"):
        find(path, tmp_path)


def add_link(tar, name, target, kind=tarfile.LNKTYPE):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    tar.addfile(info)


def test_hard_links_are_the_files_and_symbolic_links_are_listed(tmp_path):
    path = make_tar(tmp_path / "a.tar", {"./a/1.jpg": jpeg(1), "blob": jpeg(2)})
    with tarfile.open(path, "a") as tar:
        add_link(tar, "b/2.jpg", "./a/1.jpg")
        add_link(tar, "b/3.jpg", "blob")
        add_link(tar, "b/4.jpg", "b/2.jpg")
        add_link(tar, "b/later.jpg", "b/9.jpg")
        add_link(tar, "b/self.jpg", "b/self.jpg")
        add_link(tar, "b/symbolic.jpg", "../a/1.jpg", tarfile.SYMTYPE)
        add_link(tar, "b/pipe.jpg", "", tarfile.FIFOTYPE)
        add_link(tar, "b/folder.jpg", "", tarfile.DIRTYPE)
    source = find(path, tmp_path)
    with tarfile.open(path) as tar:
        wanted = {"./a/1.jpg", "blob", *in_tar(source)}
        tar.extractall(tmp_path / "out", [m for m in tar if m.name in wanted])
    assert in_tar(source) == {"a/1.jpg": 0, "b/2.jpg": 1, "b/3.jpg": 1, "b/4.jpg": 1}
    for item in source.items:
        assert item.read() == (tmp_path / "out" / item.member).read_bytes()
    nowhere = "a hard link to nothing before it"
    assert reasons(source) == {
        "later.jpg": nowhere, "self.jpg": nowhere, "symbolic.jpg": "a symbolic link",
        "pipe.jpg": "a named pipe",
    }  # fmt: skip


def test_hard_linked_labels(tmp_path):
    path = make_tar(tmp_path / "a.tar", {"0.jpg": jpeg(), "0.cls": b"7", "1.jpg": jpeg(1)})
    with tarfile.open(path, "a") as tar:
        add_link(tar, "1.cls", "0.cls")
        add_link(tar, "2.jpg", "0.jpg")
        add_link(tar, "2.cls", "0.cls", tarfile.SYMTYPE)
    source = find(path, tmp_path)
    assert in_tar(source) == {"0.jpg": 7, "1.jpg": 7}
    assert reasons(source) == {"2.jpg": "2.cls: a symbolic link"}


def test_unsupported_formats_in_tars(tmp_path):
    members = {"a/1.jpg": jpeg(), "b/2.heic": HEIC, "b/3.heic": jpeg(3), "b/4.svg": b"<svg>"}
    source = find(make_tar(tmp_path / "a.tar", members), tmp_path)
    assert in_tar(source) == {"a/1.jpg": 0, "b/3.heic": 1}
    assert [why.split(" is not sup")[0] for why in reasons(source).values()] == ["HEIC", "SVG"]
    with pytest.raises(DataError, match=r"no images in .*HEIC is not supported"):
        find(make_tar(tmp_path / "b.tar", {"1.heic": HEIC}), tmp_path)


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
def test_cut_compressed_shard_gives_what_it_has(tmp_path, kind):
    noise = [random.Random(i).randbytes(40_000) for i in range(60)]
    whole = tmp_path / "whole.tar"
    make_tar(whole, {f"a/{i}.jpg": data for i, data in enumerate(noise)})
    pack = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}[kind]
    packed = pack(whole.read_bytes())
    cut = tmp_path / "s" / f"cut.tar.{kind}"
    make_tar(tmp_path / "s" / "good.tar", {"b/x.jpg": jpeg()})
    cut.write_bytes(packed[: len(packed) * 3 // 4])
    source = find(tmp_path / "s", tmp_path)
    assert source.labels[-1] == 1
    assert [item.read() for item in source.items[:-1]] == noise[: len(source.items) - 1]
    assert len(source.items) > 20
    assert any("compressed file is lost" in why for _, why in source.skipped)


def test_disk_that_fills_while_unpacking_is_one_line(tmp_path):
    path = tmp_path / "bomb.tar.gz"
    path.write_bytes(gzip.compress(bytes(20 << 20)))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        with pytest.raises(DataError, match=r"bomb\.tar\.gz cannot be unpacked to .*: \w+"):
            find(path, tmp_path)
        options = ConvertOptions(src=str(path), out=tmp_path / "out.beton", workers=1)
        with pytest.raises(DataError, match="cannot be unpacked"):
            convert(options)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not [left for left in tmp_path.iterdir() if left.name.startswith("out.beton")]


def test_shards_that_are_no_archives_are_listed(tmp_path):
    root = tmp_path / "s"
    make_tar(root / "0.tar", {"a/1.jpg": jpeg()})
    (root / "empty.tar").touch()
    (root / "folder.tar").mkdir()
    os.mkfifo(root / "pipe.tar")
    (root / "broken.tar").symlink_to("gone")
    (root / "text.tar").write_text("hello")
    (root / "z.tar.zst").write_bytes(b"\x28\xb5\x2f\xfd" + bytes(50))
    source = find(root, tmp_path)
    assert [item.member for item in source.items] == ["a/1.jpg"]
    expected = {"folder.tar": "not a file", "pipe.tar": "not a file", "broken.tar": "a broken link"}
    found = reasons(source)
    assert len(source.skipped) == 6
    assert {name: found[name] for name in expected} == expected
    assert found["empty.tar"].endswith("it is empty")
    assert "compressed with zstd" in found["z.tar.zst"]
    assert "text.tar" in found


def test_tar_with_a_loose_image_keeps_its_classes(tmp_path):
    names = ["d/loose.jpg", "d/a/1.jpg", "d/b/2.jpg", "d/b/deep/3.jpg"]
    source = find(make_tar(tmp_path / "a.tar", dict.fromkeys(names, jpeg())), tmp_path)
    assert source.class_names == ["a", "b"]
    assert reasons(source) == {"loose.jpg": "not in a class folder"}


def test_splits_without_classes_are_no_classes(tmp_path):
    names = ["d/train/1.jpg", "d/val/2.jpg", "d/test/3.jpg"]
    source = find(make_tar(tmp_path / "a.tar", dict.fromkeys(names, jpeg())), tmp_path)
    assert in_tar(source) == {"d/train/1.jpg": None}
    assert source.kind == "tar files without labels, train/ only (of test, train, val)"


def test_listing_is_lean(tmp_path):
    """10,000 members take little memory beyond what is kept of each."""
    path = tmp_path / "a.tar"
    block = bytes(512)
    with path.open("wb") as file:
        for number in range(5_000):
            file.write(header(f"{number:06}.jpg", 10) + block + header(f"{number:06}.cls", 1))
            file.write(b"5" + block[1:])
        file.write(bytes(1024))
    with little_is_spent(seconds=10, megabytes=6):
        source = find(path, tmp_path)
    assert source.labels == [5] * 5_000


def test_names_with_many_dots_take_little_memory(tmp_path):
    members = {f"{number}" + ".a" * 1000 + ".jpg": jpeg() for number in range(30)}
    make_tar(tmp_path / "a.tar", members)
    with little_is_spent(seconds=10, megabytes=4):
        assert len(find(tmp_path / "a.tar", tmp_path).items) == 30


def test_reasons_that_name_a_file_stay_on_one_line(tmp_path):
    make_tar(tmp_path / "s" / "a.tar", {"a\nb.jpg": jpeg(), "x.jpg": jpeg(), "x.cls": b"1"})
    make_tar(tmp_path / "s" / "b.tar", {"c\nd.jpg": jpeg(), "c\nd.cls": b"cat"})
    (tmp_path / "s" / "c.tar").write_bytes(header("e\nf.jpg", 1 << 20))
    source = find(tmp_path / "s", tmp_path)
    assert sorted(why for _, why in source.skipped) == [
        "no a\\nb.cls",
        "no whole number in c\\nd.cls",
        "the rest of this tar file is lost: e\\nf.jpg should have 1048576 bytes, 0 are left",
    ]
    with pytest.raises(DataError) as error:
        find(tmp_path / "s" / "c.tar", tmp_path)
    assert "\n" not in str(error.value)


def test_files_beside_shards_are_counted(tmp_path):
    make_tar(tmp_path / "s" / "a.tar", {"0.jpg": jpeg(), "0.json": b"{}"})
    make_tar(tmp_path / "s" / "b.tar", {"1.jpg": jpeg()})
    (tmp_path / "s" / "sizes.json").write_text("{}")
    assert find(tmp_path / "s", tmp_path).notes[1:] == ["ignored, also as labels: 2 .json"]
