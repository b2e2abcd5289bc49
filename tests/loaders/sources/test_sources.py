"""Recognition of what the user gave as SRC: folders, list files, patterns."""

import os
import subprocess

import pytest
from source_files import find, jpeg, little_is_spent, make_files, make_tar

from fastimae.loaders.errors import DataError
from fastimae.loaders.image_location import SkipImage
from fastimae.loaders.sources.find import expand_pattern


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
        (b"a.jpg 1\nb.jpg\n", r"labels on only 1 of its 2 lines, not on .*b\.jpg"),
        (b"path label\na.jpg 1\n", "labels on only 1 of its 2 lines, not on .*path label"),
        (b"a.jpg 1 7\n", r"line 1 has '1 7' after the path"),
        (b"a.jpg 1\n./b.jpg -1\n", r"line 2 has '-1' after the path"),
        (b"a.jpg 2.0\n", r"line 1 has '2.0' after the path"),
        (b"a.jpg,3\n", r"line 1 has ',3' after the path"),
        (b"\na.jpg;3\n", r"line 2 has ';3' after the path"),
        (b"# x\na b.JPG\tcat\n", r"line 2 has 'cat' after the path"),
        (b"PK\x03\x04\xff\xfe", "neither a folder, a tar file nor a text file"),
        (b"", "no images"),
    ],
)
def test_unusable_list_file(tmp_path, content, message):
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(DataError, match=message):
        find(tmp_path / "list.txt", tmp_path)


@pytest.mark.parametrize(
    ("line", "name", "label"),
    [
        ("a b.jpg 7", "a b.jpg", 7),
        ("a.jpg copy.jpg", "a.jpg copy.jpg", None),
        ("d 1/a,2.png", "d 1/a,2.png", None),
        ("scan 12 3", "scan 12", 3),
        ("../d/scan", "../d/scan", None),
        ("./a.jpg\t 0", "./a.jpg", 0),
    ],
    ids=["space", "two-images", "comma", "strange-name", "no-extension", "tab"],
)
def test_a_line_has_one_reading(tmp_path, line, name, label):
    (tmp_path / "list.txt").write_text(line)
    source = find(tmp_path / "list.txt", tmp_path)
    assert source.items[0].path == str(tmp_path / name)
    assert source.labels == (None if label is None else [label])


def test_a_line_with_two_readings_is_an_error(tmp_path):
    make_files(tmp_path, "scan 12")
    (tmp_path / "list.txt").write_text("scan 12")
    with pytest.raises(DataError, match="'scan 12' is both a file and a path with a label"):
        find(tmp_path / "list.txt", tmp_path)


def test_nothing_there(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images"):
        find(tmp_path / "empty", tmp_path)
    with pytest.raises(DataError, match=r"no file or folder .*absent"):
        find(tmp_path / "absent", tmp_path)


def test_missing_shard(tmp_path):
    make_tar(tmp_path / "s-8.tar", {"1.jpg": jpeg()})
    with pytest.raises(DataError, match=r"s-9\.tar"):
        expand_pattern(f"{tmp_path}/s-{{8..9}}.tar")


def test_braces_expand_as_in_a_shell(tmp_path):
    names = ["a09.tar", "a10.tar", "b09.tar", "b10.tar"]
    make_files(tmp_path, *names)
    assert expand_pattern(f"{tmp_path}/{{a,b}}{{09..10}}.tar") == [tmp_path / n for n in names]


def test_list_file_of_windows_with_names_that_are_not_utf8(tmp_path):
    latin = os.fsdecode(b"data/caf\xe9.jpg")
    make_files(tmp_path, latin, "data/a b.jpg", "data/\u2028.jpg")
    lines = [latin, "data/a b.jpg", "data/\u2028.jpg", "data/absent.jpg"]
    numbered = "\r\n".join(f"{line} {number}" for number, line in enumerate(lines))
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbf" + os.fsencode(numbered))
    source = find(tmp_path / "list.txt", tmp_path)
    assert source.labels == [0, 1, 2, 3]
    assert [item.read() for item in source.items[:3]] == [jpeg()] * 3
    with pytest.raises(SkipImage, match="no such file"):
        source.items[3].read()


def test_list_file_with_links_that_lead_nowhere(tmp_path):
    (tmp_path / "self.jpg").symlink_to("self.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "list.txt").write_text(f"self.jpg\npipe.jpg\n{'x' * 300}.jpg\n.\n")
    for item in find(tmp_path / "list.txt", tmp_path).items:
        with pytest.raises(SkipImage):
            item.read()


def test_huge_file_that_is_no_list_is_not_read(tmp_path):
    with (tmp_path / "disk.img").open("wb") as file:
        file.truncate(8 << 30)
    with little_is_spent(), pytest.raises(DataError, match="nor a text file"):
        find(tmp_path / "disk.img", tmp_path)
    (tmp_path / "line").write_bytes(b"a" * (4 << 20))
    with little_is_spent(), pytest.raises(DataError, match="nor a text file"):
        find(tmp_path / "line", tmp_path)


@pytest.mark.parametrize(
    "src", ["self", "x" * 300, "a\0b", "dangling"], ids=["loop", "long", "nul", "dangling"]
)
def test_src_that_is_no_path(tmp_path, src):
    (tmp_path / "self").symlink_to("self")
    (tmp_path / "dangling").symlink_to("gone")
    with pytest.raises(DataError, match="SRC: "):
        find(tmp_path / src, tmp_path)


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("{3..1}", ["3", "2", "1"]),
        ("{08..11}", ["08", "09", "10", "11"]),
        ("{9..011}", ["009", "010", "011"]),
        ("{0..2}", ["0", "1", "2"]),
        ("{a,b}{1..2}", ["a1", "a2", "b1", "b2"]),
        ("{a,a}", ["a"]),
    ],
)
def test_ranges_expand_as_in_a_shell_but_each_file_counts_once(tmp_path, pattern, names):
    make_files(tmp_path, *names)
    assert expand_pattern(f"{tmp_path}/{pattern}") == [tmp_path / name for name in names]
    shell = subprocess.run(["bash", "-c", f"echo {pattern}"], capture_output=True, text=True)
    assert list(dict.fromkeys(shell.stdout.split())) == names


@pytest.mark.parametrize(
    "pattern",
    ["{0..999999999}", "{1..99}" * 9, f"{{0..{'9' * 5000}}}"],
    ids=["long", "product", "digits"],
)
def test_huge_range_ends_at_the_first_file_that_is_missing(tmp_path, pattern):
    with little_is_spent(), pytest.raises(DataError, match=r"no file or folder|cannot be read"):
        find(f"{tmp_path}/s-{pattern}.tar", tmp_path)


def test_brackets_in_names_are_brackets(tmp_path):
    for number in (0, 1):
        make_tar(tmp_path / "run[1]" / f"s-{number}.tar", {f"{number}.jpg": jpeg()})
    assert len(find(f"{tmp_path}/run[1]/s-{{0..1}}.tar", tmp_path).items) == 2
    assert len(find(f"{tmp_path}/run[[]1]/s-*.tar", tmp_path).items) == 2


def test_tar_files_beside_images_are_noted(tmp_path):
    root = make_files(tmp_path / "data", "1.jpg")
    make_tar(root / "x.tar", {"2.jpg": jpeg()})
    source = find(root, tmp_path)
    assert len(source.items) == 1
    assert "1 tar files" in source.notes[0]
