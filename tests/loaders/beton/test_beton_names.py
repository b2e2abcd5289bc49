"""Class names are stored in the .beton itself: read as they were written, or an error."""

import json
import shutil
import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from older_beton import older_beton, older_trailer

from fastimae.evaluate.images import open_images
from fastimae.loaders.beton.reader import BetonReader, BetonWriter
from fastimae.loaders.convert.run import ConvertOptions, convert
from fastimae.loaders.errors import DataError

PAGE = 4096
NAMES = ["cat", "dog", "élan"]
ARGUMENTS = 24 + 1 + 16
"""Position of descriptor 0's arguments."""


def write(path, names=NAMES, count=3, **options):
    with BetonWriter(path, page_size=PAGE, class_names=names, **options) as writer:
        for label in range(count):
            writer.append(bytes([label]) * 75, height=5, width=5, mode="raw", label=label)
    return path


def names_in(path):
    with BetonReader(path) as reader:
        return reader.class_names


def test_layout_is_the_documented_one(tmp_path):
    """Read the bytes independently, with struct."""
    data = write(tmp_path / "a.beton").read_bytes()
    magic, size, position = struct.unpack_from("<4sIQ", data, ARGUMENTS + 16)
    (table,) = struct.unpack_from("<Q", data, 16)
    assert magic == b"FNM1" and position % 8 == table % 8 == 0
    assert json.loads(data[position : position + size]) == NAMES
    assert position + size <= table < position + size + 8
    entries = [struct.unpack_from("<QQQ", data, at) for at in range(table, len(data), 24)]
    assert max(start + size for _, start, size in entries) <= position


def test_without_names_the_bytes_are_those_of_earlier_versions(tmp_path):
    data = write(tmp_path / "a.beton", names=[]).read_bytes()
    assert data[ARGUMENTS + 16 : ARGUMENTS + 1024] == bytes(1008)
    samples = [(bytes([n]) * 75, 5, 5, "raw", n, older_trailer(bytes([n]) * 75)) for n in range(3)]
    assert len(data) == len(older_beton(samples))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(st.characters(), max_size=9), min_size=3, max_size=40), st.booleans())
def test_any_names_arrive(tmp_path, names, has_labels):
    """Names of folders may even be no valid text (surrogates)."""
    path = write(tmp_path / "a.beton", names, has_labels=has_labels)
    assert names_in(path) == (names if has_labels else [])


def test_a_copy_of_the_file_alone_has_its_names(image_folder, tmp_path):
    convert(ConvertOptions(src=str(image_folder), out=tmp_path / "a.beton", workers=1))
    (tmp_path / "elsewhere").mkdir()
    copy = shutil.copy(tmp_path / "a.beton", tmp_path / "elsewhere" / "b.beton")
    names = sorted(folder.name for folder in image_folder.iterdir())
    assert names_in(copy) == names == open_images(copy).classes
    (tmp_path / "elsewhere" / "b.beton.json").write_text('{"class_names": ["x", "y", "z", "u"]}')
    assert names_in(copy) == names


@pytest.mark.parametrize(
    ("manifest", "expected"),
    [
        ('{"class_names": ["a", "b", "c"], "samples": 3}', ["a", "b", "c"]),
        ('{"class_names": ["a", "b", "c"]}', ["a", "b", "c"]),
        ('{"class_names": ["a", "b", "c"], "samples": 4}', []),
        ('{"class_names": ["a", "b"], "samples": 3}', []),
        ('{"class_names": [1, 2, 3]}', []),
        ('{"class_names": "abc"}', []),
        ("[]", []),
        ("{", []),
        ("\xff", []),
    ],
    ids=["its-own", "no-count", "count", "too-few", "numbers", "text", "list", "cut", "bytes"],
)
def test_older_files_have_names_in_their_manifest(tmp_path, manifest, expected):
    """But the manifest may be that of another file of this name by now."""
    samples = [(bytes([n]) * 75, 5, 5, "raw", n, older_trailer(bytes([n]) * 75)) for n in range(3)]
    path = tmp_path / "older.beton"
    path.write_bytes(older_beton(samples))
    assert names_in(path) == []
    path.with_name("older.beton.json").write_text(manifest, encoding="latin-1")
    assert names_in(path) == expected


def test_each_label_needs_a_name(tmp_path):
    with pytest.raises(ValueError, match="label 2 has no name: there are 2"):
        write(tmp_path / "a.beton", names=["a", "b"])


def test_any_change_to_the_names_is_damage(tmp_path):
    path = write(tmp_path / "a.beton")
    data = bytearray(path.read_bytes())
    _, size, position = struct.unpack_from("<4sIQ", data, ARGUMENTS + 16)
    for at in (*range(ARGUMENTS + 16, ARGUMENTS + 32), *range(position, position + size)):
        for value in (0, data[at] ^ 1, 255):
            if value != data[at]:
                path.write_bytes(data[:at] + bytes([value]) + data[at + 1 :])
                with pytest.raises(DataError, match="damaged, its table"):
                    BetonReader(path)


@pytest.mark.parametrize(
    "block", [b'["a", "b"]', b'["a", "b", 3]', b'{"a": 1}', b'["a", "b", "\xff"]', b"[" * 4000],
    ids=["too-few", "number", "mapping", "bytes", "deep"],
)  # fmt: skip
def test_a_file_without_checksums_may_hold_anything(tmp_path, block):
    path = tmp_path / "a.beton"
    names = ["name"] * 3 + ["x" * len(block)]
    with BetonWriter(path, page_size=PAGE, class_names=names) as writer:
        for label in range(3):
            writer.append(bytes(75), height=5, width=5, mode="raw", label=label, trailer=b"")
    data = bytearray(path.read_bytes())
    at = struct.unpack_from("<4sIQ", data, ARGUMENTS + 16)[2]
    data[at : at + len(block)] = block
    data[ARGUMENTS + 20 : ARGUMENTS + 24] = struct.pack("<I", len(block))
    path.write_bytes(data)
    with pytest.raises(DataError, match="damaged, its table"):
        BetonReader(path)
