"""Trailers: the documented layout, damage to them, and files without them."""

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from older_beton import older_beton, older_trailer

from fastimae.loaders.beton.layout import ALLOCATION, DESCRIPTOR, HEADER, metadata_dtype
from fastimae.loaders.beton.reader import BetonReader, BetonWriter
from fastimae.loaders.beton.trailer import ROW_START, largest_trailer, make_trailer, read_trailer
from fastimae.loaders.errors import DataError

PAYLOAD = bytes(range(200)) * 5
ROWS = np.array([(0, (0, 0, 0, 0)), (7999, (-1024, 2047, -3, 4))], ROW_START)

rows_of_any_kind = st.lists(
    st.tuples(
        st.integers(0, 2**32 - 1), st.tuples(*[st.integers(-(2**15), 2**15 - 1) for _ in range(4)])
    ),
    max_size=40,
)


def write(path, trailers):
    """Write a file whose samples have these trailers (None: the default one)."""
    with BetonWriter(path, page_size=1 << 12, capacity=len(trailers)) as writer:
        for trailer in trailers:
            writer.append(PAYLOAD, height=1, width=1, trailer=trailer)
    return path


def test_layout_is_the_documented_one():
    """Write the bytes independently, with struct."""
    expected = struct.pack("<4sIII", b"FMT2", zlib.crc32(PAYLOAD), 3, 2)
    for bit, dc in ROWS.tolist():
        expected += struct.pack("<I4h", bit, *dc)
    expected += struct.pack("<I", zlib.crc32(expected))
    assert make_trailer(PAYLOAD, ROWS, 3) == expected


@given(rows_of_any_kind, st.integers(1, 4))
def test_reads_what_was_made(rows, components):
    rows = np.array(rows, ROW_START)
    block = make_trailer(PAYLOAD, rows, components)
    trailer = read_trailer(memoryview(b"x" + block)[1:])  # at an odd address
    assert trailer.crc == zlib.crc32(PAYLOAD)
    assert trailer.rows.tobytes() == rows.tobytes()
    assert trailer.components == components


@pytest.mark.parametrize("components", [0, 1, 3])
@pytest.mark.parametrize("rows", [ROWS, ROWS[:0]], ids=["rows", "no rows"])
def test_a_writer_vouches_by_naming_the_components(rows, components):
    """With and without rows; in trailers of the first kind, too."""
    newer = read_trailer(make_trailer(PAYLOAD, rows, components))
    older = read_trailer(older_trailer(PAYLOAD, rows.tolist(), components))
    assert newer.vouches == older.vouches == (components > 0)
    assert newer.rows.tobytes() == older.rows.tobytes() == rows.tobytes()
    assert newer.crc == older.crc


def test_no_vouching_by_default():
    assert not read_trailer(make_trailer(PAYLOAD)).vouches


@given(st.integers(0, 43), st.integers(1, 255))
def test_any_changed_byte_is_noticed(position, change):
    block = bytearray(make_trailer(PAYLOAD, ROWS, 3))
    block[position] ^= change
    with pytest.raises(ValueError, match="it"):
        read_trailer(bytes(block))


def test_any_other_length_is_noticed():
    block = make_trailer(PAYLOAD, ROWS, 3)
    for length in range(len(block)):
        with pytest.raises(ValueError, match="trailer"):
            read_trailer(block[:length])
    with pytest.raises(ValueError, match="cannot hold 2 rows"):
        read_trailer(block + bytes(12))


def test_largest_trailer_is_one_with_a_row_for_every_eight_lines():
    for height, rows in ((1, 1), (8, 1), (9, 2), (65535, 8192)):
        assert largest_trailer(height) == len(make_trailer(b"", np.zeros(rows, ROW_START)))


def test_reader_finds_trailers_where_they_are(tmp_path):
    older, indexed = older_trailer(PAYLOAD), older_trailer(PAYLOAD, ROWS.tolist(), 3)
    samples = [(PAYLOAD, 1, 1, "jpg", 0, trailer) for trailer in (older, b"", indexed, b"", older)]
    path = tmp_path / "a.beton"
    path.write_bytes(older_beton(samples))
    with BetonReader(path) as reader:
        assert reader.trailer_sizes.tolist() == [20, 0, 44, 0, 20]
        ends = [sum(reader.region(index)) for index in range(5)]
        assert reader.trailer_positions.tolist() == [ends[0], 0, ends[2], 0, ends[4]]
        assert reader.trailer_positions.dtype == reader.trailer_sizes.dtype == np.int64
        trailers = [reader.trailer(index) for index in range(5)]
        assert [trailer and len(trailer.rows) for trailer in trailers] == [0, None, 2, None, 0]
        assert trailers[2].rows.tobytes() == ROWS.tobytes()
        assert {trailers[index].crc for index in (0, 2, 4)} == {zlib.crc32(PAYLOAD)}
        assert np.shares_memory(trailers[2].rows, reader.columns()["file"]), "copied"


def test_columns_give_all_positions(tmp_path):
    path = write(tmp_path / "a.beton", [None] * 5)
    with BetonReader(path) as reader:
        columns = reader.columns()
        for index in range(5):
            start, size = columns["positions"][index], columns["sizes"][index]
            assert columns["file"][start : start + size].tobytes() == PAYLOAD
            start, size = columns["trailer_positions"][index], columns["trailer_sizes"][index]
            assert columns["file"][start : start + size].tobytes() == make_trailer(PAYLOAD)
        assert all(array.flags.c_contiguous for array in columns.values())
        assert columns["is_jpeg"].all() and columns["is_jpeg"].itemsize == 1
    assert columns["file"].tobytes() == path.read_bytes(), "unmapped while held"


def test_file_without_trailers(tmp_path):
    """Like those written before there were trailers."""
    with BetonReader(write(tmp_path / "a.beton", [b""] * 5)) as reader:
        assert not reader.trailer_positions.any()
        assert [reader.trailer(index) for index in range(5)] == [None] * 5
        assert [bytes(reader.read(index)) for index in range(5)] == [PAYLOAD] * 5


def test_damaged_trailer_does_not_matter_until_it_is_read(tmp_path):
    path = write(tmp_path / "a.beton", [None] * 3)
    with BetonReader(path) as reader:
        at = reader.trailer_positions[1]
    data = bytearray(path.read_bytes())
    data[at + 5] ^= 1
    path.write_bytes(data)
    with BetonReader(path) as reader:
        assert reader.trailer(0).crc == reader.trailer(2).crc == zlib.crc32(PAYLOAD)
        with pytest.raises(DataError, match=r"a\.beton: sample 1: its trailer is damaged"):
            reader.trailer(1)


def test_other_fields_are_not_taken_for_trailers(tmp_path):
    """The bytes of a second field are right behind the image, and look like a trailer."""
    block, start = make_trailer(PAYLOAD), 1 << 12
    header, descriptors = np.zeros((), HEADER), np.zeros(2, DESCRIPTOR)
    header["version"], header["num_fields"], header["num_samples"] = 2, 2, 1
    header["alloc_table_ptr"] = start + len(PAYLOAD) + len(block)
    descriptors["type_id"], descriptors["name"] = (2, 3), (b"image", b"note")
    sample = np.zeros(1, metadata_dtype([2, 3]))
    sample["f0"] = (0, 1, 1, start)
    sample["f1"] = (start + len(PAYLOAD), len(block))
    table = np.array([(0, start, len(PAYLOAD)), (0, start + len(PAYLOAD), len(block))], ALLOCATION)
    head = header.tobytes() + descriptors.tobytes() + sample.tobytes()
    path = tmp_path / "a.beton"
    path.write_bytes(head.ljust(start, b"\0") + PAYLOAD + block + table.tobytes())
    with BetonReader(path) as reader:
        assert bytes(reader.read(0)) == PAYLOAD
        assert reader.trailer(0) is None
        assert reader.trailer_positions.tolist() == [0]
