"""Intact archives are read as tarfile does; hostile ones cost neither time nor memory."""

import gzip
import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from source_files import (
    binary,
    find,
    header,
    in_tar,
    jpeg,
    little_is_spent,
    make_tar,
    member,
    padded,
    reasons,
)

from fastimae.loaders.errors import DataError
from fastimae.loaders.sources.tar_headers import FOLDER, TarDamage, read_members

END = bytes(1024)
GOOD = member("0.jpg", jpeg()) + member("0.cls", b"7")


def members_of(path):
    with path.open("rb") as file:
        return list(read_members(file.fileno(), 0, path.stat().st_size))


NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0/"), min_size=1)
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)


@settings(max_examples=60, deadline=None)
@given(
    files=st.lists(st.tuples(PATHS, st.binary(max_size=1100)), max_size=6),
    form=st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
def test_sound_archives_as_tarfile_reads_them(files, form, tmp_path_factory):
    path = tmp_path_factory.mktemp("tar") / "a.tar"
    files = [(name, data) for name, data in files if name.strip("./")]
    try:
        make_tar(path, files, format=form)
    except ValueError:  # the name is too long for ustar
        return
    with tarfile.open(path) as tar:
        expected = [(info.name.lstrip("/"), info.offset_data, info.size) for info in tar]
    found = [(m.name, m.offset, m.size) for m in members_of(path)]
    assert [entry[1:] for entry in found] == [entry[1:] for entry in expected]
    for ours, theirs in zip(found, expected, strict=True):
        assert theirs[0].endswith(ours[0]) and not theirs[0].removesuffix(ours[0]).strip("./")


def test_kinds_of_members(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, kind in [("f", tarfile.REGTYPE), ("h", tarfile.LNKTYPE), ("s", tarfile.SYMTYPE),
                           ("d", tarfile.DIRTYPE), ("p", tarfile.FIFOTYPE)]:  # fmt: skip
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "ä" * 120 if kind in tarfile.LNKTYPE else "f"
            tar.addfile(info)
    kinds = {m.name.rstrip("/"): (m.kind, m.target) for m in members_of(path)}
    assert kinds["f"][0] == ""
    assert kinds["h"] == ("a hard link", "ä" * 120)
    assert kinds["d"][0] == FOLDER
    assert [kinds[name][0] for name in "sp"] == ["a symbolic link", "a named pipe"]


def test_size_in_binary_is_read(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(header("a", size_field=binary(700)) + bytes(1024) + member("b", b"x") + END)
    assert [(m.name, m.size) for m in members_of(path)] == [("a", 700), ("b", 1)]


def pax(*records):
    lines = b""
    for record in records:
        body = b" " + record + b"\n"
        length = len(body) + 1
        while len(str(length)) + len(body) != length:
            length += 1
        lines += str(length).encode() + body
    return member("pax", lines, kind=b"x")


SPARSE = bytearray(header("s.jpg", 0, kind=b"S"))
SPARSE[482] = 1
SPARSE[148:156] = b" " * 8
SPARSE[148:156] = b"%06o\0 " % sum(SPARSE)

HOSTILE = {
    "negative-octal": header("1.jpg", size_field=b"-0000002000\0"),
    "negative-binary": header("1.jpg", size_field=binary(-1024)),
    "negative-of-a-name": header("1.jpg", kind=b"L", size_field=binary(-512)),
    "negative-of-pax": header("1.jpg", kind=b"x", size_field=binary(-512)),
    "absurd": header("1.jpg", size_field=binary(1 << 80)),
    "eight-exabytes": header("1.jpg", size_field=binary((1 << 63) - 1)),
    "largest-octal": header("1.jpg", size_field=b"7" * 12),
    "absurd-name": header("1.jpg", kind=b"L", size_field=binary(1 << 62)),
    "absurd-pax": header("1.jpg", kind=b"x", size_field=binary(1 << 62)),
    "absurd-global": header("1.jpg", kind=b"g", size_field=binary(1 << 62)),
    "long-pax": header("1.jpg", 8 << 20, kind=b"x") + bytes(8 << 20),
    "pax-size": pax(b"size=99999999999999999999") + header("1.jpg"),
    "pax-negative": pax(b"size=-1024") + header("1.jpg"),
    "pax-of-zeros": member("p", b"0 path=a\n", kind=b"x") + header("1.jpg"),
    "pax-long-record": member("p", b"99999999 path=a\n", kind=b"x") + header("1.jpg"),
    "pax-digits": member("p", b"9" * 50_000, kind=b"x") + header("1.jpg"),
    "sparse-map": bytes(SPARSE) + (bytes(504) + b"\1" + bytes(7)) * 100,
    "sparse-pax": pax(b"GNU.sparse.major=1", b"GNU.sparse.minor=0", b"GNU.sparse.size=9999999999")
    + member("1.jpg", b"99999999\n" * 50),
    "names-without-end": member("l", b"a" * 600, kind=b"L") * 2000
    + header("", size_field=binary(-1)),
    "not-a-number": header("1.jpg", size_field=b"12345678x90\0"),
    "no-header": b"\xff" * 5000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archive_keeps_its_good_part_and_the_others(tmp_path, name):
    hostile = tmp_path / "s" / "1.tar"
    make_tar(tmp_path / "s" / "0.tar", {"a.jpg": jpeg(), "a.cls": b"3"})
    make_tar(tmp_path / "s" / "2.tar", {"b.jpg": jpeg(), "b.cls": b"4"})
    hostile.write_bytes(GOOD + HOSTILE[name] + member("9.jpg", b"x") + END)
    with little_is_spent():
        source = find(tmp_path / "s", tmp_path)
    labels = in_tar(source)
    assert labels == {"a.jpg": 3, "0.jpg": 7, "b.jpg": 4}
    assert any(name.startswith(str(hostile)) for name, _ in source.skipped)
    assert all(item.read() == jpeg() for item in source.items)
    with little_is_spent(), pytest.raises(DataError):
        hostile.write_bytes(HOSTILE[name])
        find(hostile, tmp_path)


@pytest.mark.parametrize("end", [b"", bytes(100), header("1.jpg", kind=b"L")], ids=len)
def test_archive_that_just_stops_may_lack_files(tmp_path, end):
    path = tmp_path / "a.tar"
    path.write_bytes(GOOD + end)
    source = find(path, tmp_path)
    assert in_tar(source) == {"0.jpg": 7}
    assert "the rest of this tar file is lost: it ends " in reasons(source)["a.tar"]


def test_zeros_in_the_middle_do_not_hide_the_rest(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(GOOD + bytes(1024) + member("1.jpg", jpeg()) + END)
    source = find(path, tmp_path)
    assert list(in_tar(source)) == ["0.jpg"]
    assert "more data after an end mark" in reasons(source)["a.tar"]


@pytest.mark.parametrize("depth", [2, 3, 4, 200])
def test_archives_in_archives(tmp_path, depth):
    inner = member("1.jpg", jpeg(1))
    for _ in range(depth):
        inner = member("n.tar", inner + END)
    path = tmp_path / "a.tar"
    path.write_bytes(member("m/0.jpg", jpeg(0)) + inner + END)
    with little_is_spent():
        source = find(path, tmp_path)
    folder = "n/" * depth
    assert list(in_tar(source)) == ["m/0.jpg"] + [f"{folder}1.jpg"] * (depth <= 3)
    assert ("too deep" in str(source.skipped)) == (depth > 3)


def test_damage_within_an_inner_archive_stays_there(tmp_path):
    broken = member("0.jpg", jpeg(0)) + header("1.jpg", size_field=binary(-512)) + END
    path = make_tar(tmp_path / "a.tar", {
        "x.tar": broken, "y.tar": member("2.jpg", jpeg(2)) + END, "z.tar": b"junk" * 300,
        "w.tar.gz": gzip.compress(member("3.jpg", jpeg()) + END),
    })  # fmt: skip
    source = find(path, tmp_path)
    assert in_tar(source) == {"x/0.jpg": 0, "y/2.jpg": 1}
    assert set(reasons(source)) == {"x.tar", "z.tar", "w.tar.gz"}


def test_thousands_of_links_to_an_archive_are_not_thousands_of_archives(tmp_path):
    inner = b"".join(member(f"{i}.jpg", b"x") for i in range(100)) + END
    links = b"".join(header(f"{i}.tar", kind=b"1", target="n.tar") for i in range(2000))
    path = tmp_path / "a.tar"
    path.write_bytes(member("n.tar", inner) + links + END)
    with little_is_spent():
        source = find(path, tmp_path)
    assert len(source.items) == 100
    assert len(source.skipped) == 2000


SOUND = io.BytesIO()
with tarfile.open(fileobj=SOUND, mode="w", format=tarfile.PAX_FORMAT) as _tar:
    for _name, _data in [("c/0.jpg", b"0" * 600), ("ü" * 90 + ".jpg", b"1"), ("c/0.cls", b"5"),
                         ("in.tar", member("d/1.png", b"2" * 30) + END)]:  # fmt: skip
        _info = tarfile.TarInfo(_name)
        _info.size = len(_data)
        _tar.addfile(_info, io.BytesIO(_data))
    _link = tarfile.TarInfo("c/2.jpg")
    _link.type, _link.linkname = tarfile.LNKTYPE, "c/0.jpg"
    _tar.addfile(_link)


def with_right_sum(data, block):
    """Fix the checksum of the header at `block`, so that it passes whatever is in it."""
    summed = bytearray(data[block : block + 512])
    summed[148:156] = b" " * 8
    summed[148:156] = b"%06o\0 " % sum(summed)
    return data[:block] + summed + data[block + 512 :]


@settings(max_examples=100, deadline=None)
@given(
    damage=st.lists(
        st.tuples(st.integers(0, 12_000), st.binary(min_size=1, max_size=12)), max_size=8
    ),
    cut=st.integers(0, 12_000),
    fix_sums=st.booleans(),
)
@example(damage=[(124, binary(-512))], cut=12_000, fix_sums=True)
@example(damage=[(156, b"x")], cut=12_000, fix_sums=True)
@example(damage=[(156, b"S")], cut=12_000, fix_sums=True)
def test_any_damage_is_listed_or_one_error(damage, cut, fix_sums, tmp_path_factory):
    """Also if the checksums of the headers are right."""
    data = SOUND.getvalue()
    for position, noise in damage:
        position %= len(data)
        data = data[:position] + noise + data[position + len(noise) :]
        if fix_sums and position // 512 * 512 + 512 <= len(data):
            data = with_right_sum(data, position // 512 * 512)
    folder = tmp_path_factory.mktemp("damaged")
    make_tar(folder / "s" / "good.tar", {"g/0.jpg": jpeg(), "g/0.cls": b"1"})
    (folder / "s" / "bad.tar").write_bytes(data[:cut])
    with little_is_spent():
        source = find(folder / "s", folder)
    good = [item for item in source.items if item.path.endswith("good.tar")]
    assert [item.read() for item in good] == [jpeg()]
    assert all(item.offset + item.size <= Path(item.path).stat().st_size for item in source.items)
    try:
        find(folder / "s" / "bad.tar", folder)
    except DataError as error:
        assert "\n" not in str(error)


def test_reader_only_moves_forward(tmp_path):
    """No two members overlap, whatever the sizes say."""
    path = tmp_path / "a.tar"
    path.write_bytes(GOOD + padded(b"") + header("2.jpg", size_field=binary(-1536)) + END)
    with path.open("rb") as file, pytest.raises(TarDamage, match="negative"):
        list(read_members(file.fileno(), 0, path.stat().st_size))


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_of_a_million_characters(tmp_path, form):
    """Each dot could end the name of a sample; all possible names together take terabytes."""
    make_tar(tmp_path / "a.tar", {"0.jpg": jpeg(), "a." * 500_000 + "jpg": b"x"}, format=form)
    with little_is_spent():
        source = find(tmp_path / "a.tar", tmp_path)
    assert [item.member for item in source.items] == ["0.jpg"]
    assert "a name of 1000003 characters" in reasons(source)["a.tar"]
