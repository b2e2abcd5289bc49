"""The .beton format: a file is read as it was written, and any other file is one DataError."""

import hashlib
import os
import pickle
import struct
import time
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from older_beton import older_beton, older_trailer

from fastimae.loaders.beton.reader import BetonReader, BetonWriter
from fastimae.loaders.errors import DataError

PAGE = 4096
SLOW_FIXTURES = [HealthCheck.function_scoped_fixture]


def write(path, samples, **options):
    """Write samples (payload, height, width, mode, label)."""
    with BetonWriter(path, page_size=PAGE, **options) as writer:
        for payload, height, width, mode, label in samples:
            writer.append(payload, height=height, width=width, mode=mode, label=label)
    return path


def raw_sample(height, width, label, fill=7):
    return bytes([fill]) * (height * width * 3), height, width, "raw", label


@pytest.fixture
def small_file(tmp_path):
    samples = [raw_sample(3 + i, 5, label=i, fill=i) for i in range(6)]
    return write(tmp_path / "small.beton", samples, capacity=10)


@pytest.fixture
def older_file(tmp_path):
    """Write the same samples in a file from before the table had a checksum."""
    samples = [raw_sample(3 + i, 5, label=i, fill=i) for i in range(6)]
    data = older_beton([(*sample, older_trailer(sample[0])) for sample in samples])
    (tmp_path / "older.beton").write_bytes(data)
    return tmp_path / "older.beton"


sample_lists = st.lists(
    st.tuples(st.integers(1, 36), st.integers(1, 36), st.integers(0, 255), st.integers(0, 2**62)),
    min_size=1,
    max_size=20,
)


@settings(max_examples=40, suppress_health_check=SLOW_FIXTURES)
@given(sample_lists, st.booleans())
def test_reads_what_was_written(tmp_path, shapes, has_labels):
    samples = [raw_sample(h, w, label, fill) for h, w, fill, label in shapes]
    path = write(tmp_path / "a.beton", samples, has_labels=has_labels)
    with BetonReader(path) as reader:
        assert [bytes(reader.read(i)) for i in range(len(reader))] == [s[0] for s in samples]
        assert reader.heights.tolist() == [s[1] for s in samples]
        assert reader.widths.tolist() == [s[2] for s in samples]
        assert reader.labels.tolist() == [s[4] if has_labels else -1 for s in samples]
        assert not reader.is_jpeg.any()
        assert reader.labels.dtype == reader.heights.dtype == np.int64


def test_layout_is_the_documented_one(tmp_path):
    """Read the bytes independently, with struct."""
    jpeg = b"\xff\xd8 not looked at"
    samples = [(jpeg, 11, 22, "jpg", 5), raw_sample(2, 3, label=-4)]
    data = write(tmp_path / "a.beton", samples, capacity=2).read_bytes()
    version, fields, page, count, table = struct.unpack_from("<HHIQQ", data)
    assert (version, fields, page, count) == (2, 2, PAGE, 2)
    names = [(data[24], data[25:41]), (data[24 + 1041], data[1066:1082])]
    assert names == [(2, b"image".ljust(16, b"\0")), (1, b"label".ljust(16, b"\0"))]
    start = 24 + 2 * 1041
    assert len(data) == table + 2 * 48
    record = data[41:57]
    covered = data[:41] + bytes(16) + data[57 : start + 2 * 24] + data[table:]
    assert record == struct.pack("<4sI8x", b"FTB1", zlib.crc32(covered))
    assert not any(data[57:1065]) and not any(data[1082:start])
    for number, (payload, height, width, mode, label) in enumerate(samples):
        at = start + 24 * number
        kind, w, h, ptr = struct.unpack_from("<BHHQ", data, at)
        assert (kind, h, w) == (["jpg", "raw"].index(mode), height, width)
        assert struct.unpack_from("<q", data, at + 16) == (label,)
        assert data[ptr : ptr + len(payload)] == payload
        end = ptr + len(payload)
        assert struct.unpack_from("<QQQ", data, table + 24 * number) == (number, end, 20)
        entry = struct.unpack_from("<QQQ", data, table + 24 * (2 + number))
        assert entry == (number, ptr, len(payload))
        trailer = struct.pack("<4sIII", b"FMT2", zlib.crc32(payload), 0, 0)
        assert data[end : end + 20] == trailer + struct.pack("<I", zlib.crc32(trailer))


ROWS = [(16, (0, 0, 0, 0)), (99, (-1, 2, -3, 4))]
JPEG_OF_OLD, RAW_OF_OLD = b"\xff\xd8 not looked at", bytes([7]) * 18


@pytest.mark.parametrize(
    ("jpeg_trailer", "raw_trailer", "digest"),
    [
        pytest.param(
            older_trailer(JPEG_OF_OLD, ROWS, 3),
            older_trailer(RAW_OF_OLD),
            "7d52defe57c2507b931bf4018b3df64125a560e42793633cd3c429feb48e1032",
            id="with trailers",
        ),
        pytest.param(
            b"",
            b"",
            "df2307ac58b2dbdb94d6e0b2cc074f0aebca94670cb8b2894dbb31d8916cb0ca",
            id="without",
        ),
    ],
)
def test_older_files_are_read(tmp_path, jpeg_trailer, raw_trailer, digest):
    """The digests are those of files that earlier versions of FastIMAE wrote."""
    data = older_beton(
        [
            (JPEG_OF_OLD, 11, 22, "jpg", 5, jpeg_trailer),
            (RAW_OF_OLD, 2, 3, "raw", -4, raw_trailer),
        ]
    )
    assert hashlib.sha256(data).hexdigest() == digest
    (tmp_path / "a.beton").write_bytes(data)
    with BetonReader(tmp_path / "a.beton") as reader:
        assert not reader.has_record and reader.has_trailers == bool(raw_trailer)
        assert [bytes(reader.read(i)) for i in range(2)] == [JPEG_OF_OLD, RAW_OF_OLD]
        assert reader.labels.tolist() == [5, -4]
        assert (reader.heights.tolist(), reader.widths.tolist()) == ([11, 2], [22, 3])
        assert reader.is_jpeg.tolist() == [True, False]
        assert reader.problem(1) is None
        trailers = [reader.trailer(i) for i in range(2)]
        if raw_trailer:
            rows = [[(bit, tuple(dc)) for bit, dc in t.rows.tolist()] for t in trailers]
            assert (rows, [t.components for t in trailers]) == ([ROWS, []], [3, 0])
        else:
            assert trailers == [None, None]


def test_any_changed_byte_of_the_table_is_noticed(small_file):
    """Even bytes of the record itself, and labels, which nothing else would reveal."""
    data = small_file.read_bytes()
    with BetonReader(small_file) as reader:
        assert reader.has_record
    covered = [*range(2106 + 6 * 24), *range(len(data) - 12 * 24, len(data))]
    changes = np.random.default_rng(0).integers(1, 256, len(covered)).tolist()
    for position, change in zip(covered, changes, strict=True):
        damaged = bytearray(data)
        damaged[position] ^= change
        small_file.write_bytes(damaged)
        with pytest.raises(DataError, match=r"small\.beton") as caught:
            BetonReader(small_file)
        assert "\n" not in str(caught.value)


def test_a_changed_label_is_named(small_file):
    data = bytearray(small_file.read_bytes())
    data[2106 + 3 * 24 + 16] ^= 1
    small_file.write_bytes(data)
    with pytest.raises(DataError, match=r"its table \(labels, sizes") as caught:
        BetonReader(small_file)
    assert "convert again" in str(caught.value)


@pytest.mark.parametrize("end", [57, 1065])
def test_a_lost_record_is_noticed(small_file, end):
    """The file then looks like one without a record, except for its trailers."""
    data = bytearray(small_file.read_bytes())
    data[41:end] = bytes(end - 41)
    small_file.write_bytes(data)
    with pytest.raises(DataError, match="its table"):
        BetonReader(small_file)


def test_changed_padding_does_not_matter(small_file):
    data = bytearray(small_file.read_bytes())
    data[2106 + 6 * 24 : PAGE] = b"x" * (PAGE - 2106 - 6 * 24)
    small_file.write_bytes(data)
    open_and_read(small_file)


def test_file_without_trailers_has_no_record(tmp_path):
    """Like a file of the ffcv library: only zeros besides types and names."""
    with BetonWriter(tmp_path / "a.beton", page_size=PAGE) as writer:
        writer.append(bytes(12), height=2, width=2, mode="raw", label=3, trailer=b"")
    assert not any((tmp_path / "a.beton").read_bytes()[41:1065])
    with BetonReader(tmp_path / "a.beton") as reader:
        assert (reader.has_record, reader.has_trailers, reader.problem(0)) == (False, False, None)


@pytest.mark.parametrize("resumed", [False, True])
@pytest.mark.parametrize("trailers", [(b"", None), (None, b"")])
def test_writer_refuses_to_mix_samples_with_and_without_trailers(tmp_path, trailers, resumed):
    sample = {"height": 2, "width": 2, "mode": "raw"}
    writer = BetonWriter(tmp_path / "a.beton", page_size=PAGE)
    writer.append(bytes(12), **sample, trailer=trailers[0])
    if resumed:
        rows = writer.rows.copy()
        writer.abort()
        writer = BetonWriter(tmp_path / "a.beton", page_size=PAGE, rows=rows)
    with pytest.raises(ValueError, match="all have a trailer, or none"):
        writer.append(bytes(12), **sample, trailer=trailers[1])
    writer.append(bytes(12), **sample, trailer=trailers[0])
    writer.close()
    with BetonReader(tmp_path / "a.beton") as reader:
        assert [reader.problem(i) for i in range(2)] == [None, None]


def test_no_sample_crosses_a_page(tmp_path):
    samples = [raw_sample(20, 20, i) for i in range(15)] + [(bytes(PAGE - 20), 1, 1, "jpg", 0)]
    # Three such samples fit a page, but only two with their trailers.
    samples += [(bytes(PAGE // 3), 1, 1, "jpg", 0)] * 3
    with BetonReader(write(tmp_path / "a.beton", samples)) as reader:
        for index in range(len(reader)):
            first, size = reader.region(index)
            assert first // PAGE == (first + size + reader.trailer_sizes[index] - 1) // PAGE


def test_resumed_writer_makes_the_same_file(tmp_path):
    samples = [raw_sample(9, 9 + i, i, fill=i) for i in range(12)]
    whole = write(tmp_path / "whole.beton", samples).read_bytes()
    path = tmp_path / "resumed.beton"
    writer = BetonWriter(path, page_size=PAGE)
    for payload, height, width, mode, label in samples[:9]:
        writer.append(payload, height=height, width=width, mode=mode, label=label)
    rows = writer.rows[:5].copy()  # the last four were never recorded
    writer.abort()
    write(path, samples[5:], rows=rows)
    assert path.read_bytes() == whole


def test_exception_leaves_the_old_file(tmp_path):
    path = write(tmp_path / "a.beton", [raw_sample(2, 2, 0)])
    before = path.read_bytes()
    with pytest.raises(KeyError), BetonWriter(path, page_size=PAGE) as writer:
        writer.append(bytes(12), height=2, width=2, mode="raw", label=0)
        raise KeyError
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("payload", "height", "width", "mode"),
    [
        (b"", 1, 1, "jpg"),
        (bytes(PAGE - 19), 1, 1, "jpg"),
        (b"x", 0, 1, "jpg"),
        (b"x", 1, 65536, "jpg"),
        (bytes(11), 2, 2, "raw"),
    ],
)
def test_writer_refuses_what_the_format_cannot_hold(tmp_path, payload, height, width, mode):
    writer = BetonWriter(tmp_path / "a.beton", page_size=PAGE)
    with pytest.raises(ValueError, match=r"fit a page|sides must|are not"):
        writer.append(payload, height=height, width=width, mode=mode)
    writer.abort()


def test_writer_refuses_more_than_its_capacity(tmp_path):
    with pytest.raises(ValueError, match="capacity"):
        write(tmp_path / "a.beton", [raw_sample(1, 1, 0)] * 3, capacity=2)


def test_reader_can_be_sent_to_another_process(small_file):
    with BetonReader(small_file) as reader:
        copy = pickle.loads(pickle.dumps(reader))
        assert [bytes(copy.read(i)) for i in range(6)] == [bytes(reader.read(i)) for i in range(6)]
        copy.close()


def test_bytes_outlive_the_reader(small_file):
    reader = BetonReader(small_file)
    held = reader.read(5)
    reader.close()
    assert bytes(held) == bytes([5]) * (8 * 5 * 3)


@pytest.mark.parametrize("content", [b"", b"\x02", b"not a beton file" * 100, bytes(5000)])
def test_foreign_file(tmp_path, content):
    path = tmp_path / "foreign.beton"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"foreign\.beton"):
        BetonReader(path)


def test_missing_file_and_folder(tmp_path):
    for path in (tmp_path / "absent.beton", tmp_path):
        with pytest.raises(DataError, match=str(path)):
            BetonReader(path)


@pytest.mark.parametrize("which", ["small_file", "older_file"])
def test_every_truncation_is_noticed(which, request):
    path = request.getfixturevalue(which)
    data = path.read_bytes()
    for length in [*range(0, len(data), 97), *range(len(data) - 50, len(data))]:
        path.write_bytes(data[:length])
        with pytest.raises(DataError, match=path.name):
            BetonReader(path)


def open_and_read(path):
    with BetonReader(path) as reader:
        for index in range(len(reader)):
            shape = int(reader.heights[index]), int(reader.widths[index]), 3
            assert reader.is_jpeg[index] or len(reader.read(index)) == np.prod(shape)
            reader.trailer(index)


# Positions that are not padding: header, descriptors' first bytes, metadata, allocation table.
_MEANINGFUL = [*range(41), *range(1065, 1082), *range(2106, 2106 + 6 * 24), *range(-12 * 24, 0)]


@settings(max_examples=300, suppress_health_check=SLOW_FIXTURES)
@given(
    flips=st.lists(
        st.tuples(st.sampled_from(_MEANINGFUL), st.integers(0, 255)), min_size=1, max_size=6
    )
)
def test_damaged_bytes_of_an_older_file_give_a_data_error_at_worst(
    tmp_path_factory, older_file, flips
):
    data = bytearray(older_file.read_bytes())
    for position, value in flips:
        data[position] = value
    path = tmp_path_factory.mktemp("fuzz") / "fuzz.beton"
    path.write_bytes(data)
    try:
        open_and_read(path)
    except DataError as error:
        assert "fuzz.beton" in str(error)


@pytest.mark.parametrize(
    ("offset", "code", "value", "message"),
    [
        (0, "<H", 1, "version 2"),
        (2, "<H", 60, "truncated or damaged"),
        (8, "<Q", 10**15, "cannot hold"),
        (8, "<Q", 0, "cannot hold"),
        (16, "<Q", 2**63, "truncated or damaged"),
        (24, "<B", 255, "'image' is of a custom type"),
        (24, "<B", 0, "no image field"),
        (2106, "<B", 2, "sample 0 cannot be an image"),
        (2106 + 24 + 3, "<H", 0, "sample 1 cannot be an image"),
        (2106 + 48 + 5, "<Q", 2**64 - 1, "data of sample 2"),
        (2106 + 48 + 5, "<Q", 16, "data of sample 2"),
        (-8, "<Q", 2**64 - 1, "data of sample 5"),
        (-6 * 24 - 8, "<Q", 2**64 - 1, "trailer of sample 5"),
        (-6 * 24 - 8, "<Q", 10**9, "trailer of sample 5"),
    ],
)
def test_message_says_what_is_damaged(older_file, offset, code, value, message):
    data = bytearray(older_file.read_bytes())
    struct.pack_into(code, data, offset % len(data), value)
    older_file.write_bytes(data)
    with pytest.raises(DataError, match=message):
        BetonReader(older_file)


def test_large_table_opens_fast(tmp_path):
    """200,000 samples in well under a second: there is no Python loop over samples."""
    path = tmp_path / "large.beton"
    with BetonWriter(path, page_size=1 << 16, capacity=200_000) as writer:
        for index in range(200_000):
            writer.append(b"x", height=1, width=1, label=index)
    start = time.process_time()
    with BetonReader(path) as reader:
        assert reader.labels[-1] == 199_999
    assert time.process_time() - start < 1


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.beton")
    with pytest.raises(DataError, match=r"pipe.beton: not a file"):
        BetonReader(tmp_path / "pipe.beton")
