"""The facts read from a JPEG's markers agree with what libjpeg decodes."""

import io
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from odd_jpegs import (
    END,
    FRAME,
    HUFFMAN_TABLES,
    QUANTISATION_TABLES,
    SCAN,
    first_scans,
    header,
    inserted,
    joined,
    jpeg,
    picture,
    pixels,
    scan_by_scan,
    without,
)
from PIL import Image

from fastimae.loaders import native_library
from fastimae.loaders.images.jpeg import read_jpeg_header, read_jpeg_info
from fastimae.loaders.images.jpeg_repair import repair_jpeg

needs_native = pytest.mark.skipif(native_library.load() is None, reason="it is not built")
BASELINE, PROGRESSIVE = jpeg(), jpeg(progressive=True)
GRAY = jpeg(picture().convert("L"), optimize=True)
FILES = {
    "baseline": BASELINE,
    "progressive": PROGRESSIVE,
    "gray": GRAY,
    "restarts": jpeg(restart_marker_blocks=2),
    "no tables": without(BASELINE, HUFFMAN_TABLES),
}


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_header(mode, progressive):
    data = jpeg(picture().convert(mode), progressive=progressive)
    info = read_jpeg_info(data)
    assert (info.height, info.width, info.channels) == (50, 70, len(mode) if mode != "L" else 1)
    assert (info.huffman, info.progressive, info.precision) == (True, progressive, 8)
    assert info.is_plain == (mode != "CMYK")
    assert read_jpeg_header(memoryview(data)) == info
    for read in (read_jpeg_info, read_jpeg_header):
        assert not read(data[:-2]).complete


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"\xff\xd8\xff\xd9", b"x" + BASELINE])
def test_other_files_have_no_header(data):
    assert read_jpeg_info(data) is read_jpeg_header(data) is None


@pytest.mark.parametrize("data", FILES.values(), ids=FILES.keys())
@pytest.mark.parametrize("marker", [QUANTISATION_TABLES, FRAME, SCAN])
@pytest.mark.parametrize("junk", [b"A", b"\0", b"some text", b"\xff\0", b"\xff\xd3", b"a\xff\xff"])
def test_bytes_between_segments_are_skipped(data, marker, junk):
    marker = b"\xff\xc2" if marker == FRAME and data is PROGRESSIVE else marker
    odd = inserted(data, marker, junk)
    before, info = read_jpeg_info(data), read_jpeg_info(odd)
    assert np.array_equal(pixels(odd), pixels(data))
    assert info == before._replace(tidy=False)
    assert not info.is_plain and not getattr(read_jpeg_header(odd), "is_plain", False)


@pytest.mark.parametrize("data", FILES.values(), ids=FILES.keys())
def test_fill_bytes_before_a_marker_are_not_stray(data):
    odd = inserted(inserted(data, SCAN, b"\xff"), QUANTISATION_TABLES, b"\xff\xff\xff")
    assert read_jpeg_info(odd) == read_jpeg_info(data)
    assert np.array_equal(pixels(odd[:-2] + b"\xff\xff" + END), pixels(data))
    assert read_jpeg_info(odd[:-2] + b"\xff\xff" + END) == read_jpeg_info(data)


@pytest.mark.parametrize(
    "odd",
    [
        BASELINE[:-2] + bytes([0xFF]) * 30_000,
        inserted(BASELINE, QUANTISATION_TABLES, bytes([0xFF]) * 30_000 + b"\0"),
        PROGRESSIVE[:-2] + bytes([0xFF]) * 30_000 + b"\0" + END,
    ],
    ids=["erased", "header", "scan"],
)
def test_erased_memory_takes_no_time(odd):
    start = time.process_time()
    read_jpeg_info(odd), read_jpeg_header(odd)
    assert time.process_time() - start < 1


def test_bytes_between_scans_are_skipped_too():
    last = PROGRESSIVE.rindex(SCAN)
    comment = b"\xff\xfe\x00\x04hi"
    tidy = PROGRESSIVE[:last] + comment + PROGRESSIVE[last:]
    assert read_jpeg_info(tidy) == read_jpeg_info(PROGRESSIVE)
    odd = PROGRESSIVE[:last] + comment + b"left over" + PROGRESSIVE[last:]
    assert np.array_equal(pixels(odd), pixels(PROGRESSIVE))
    assert read_jpeg_info(odd) == read_jpeg_info(PROGRESSIVE)._replace(tidy=False)


@pytest.mark.parametrize("length", [0, 1, 2, 5, 9])
def test_too_short_a_length_leaves_stray_bytes(length):
    """The right length is 10."""
    wrong = b"\xff\xe1" + length.to_bytes(2) + b"Exif\0\0ab"
    odd = inserted(BASELINE, QUANTISATION_TABLES, wrong)
    assert np.array_equal(pixels(odd), pixels(BASELINE))
    assert read_jpeg_info(odd) == read_jpeg_info(BASELINE)._replace(tidy=False)


def test_too_great_a_length_swallows_what_follows():
    """libjpeg trusts it; the segments that it needs must come later."""
    swallowed = b"\xff\xfe\x00\x09remark" + b"\xff\xe2\x00\x04ab"
    odd = inserted(BASELINE, QUANTISATION_TABLES, b"\xff\xe1\x00\x0cExif" + swallowed)
    assert np.array_equal(pixels(odd), pixels(BASELINE))
    assert read_jpeg_info(odd) == read_jpeg_info(BASELINE)._replace(tidy=False)
    table = header(BASELINE)[0][1]
    assert table.startswith(QUANTISATION_TABLES)
    lost = inserted(BASELINE, QUANTISATION_TABLES, b"\xff\xe1" + (len(table) + 2).to_bytes(2))
    assert pixels(lost) is None
    assert not read_jpeg_info(lost).own_tables


@pytest.mark.parametrize("marker", [0x02, 0xBF, 0xC8, 0xD8, 0xDE, 0xF0, 0xFD])
def test_at_a_marker_that_libjpeg_does_not_know_the_file_ends(marker):
    last = PROGRESSIVE.rindex(SCAN)
    odd = PROGRESSIVE[:last] + bytes([0xFF, marker, 0, 4, 1, 2]) + PROGRESSIVE[last:]
    assert pixels(odd) is None
    assert not read_jpeg_info(odd).complete


def test_the_number_of_scans_decides():
    whole = pixels(PROGRESSIVE)
    for count in range(1, PROGRESSIVE.count(SCAN)):
        cut = first_scans(PROGRESSIVE, count)
        assert pixels(cut) is not None and not np.array_equal(pixels(cut), whole)
        for read in (read_jpeg_info, read_jpeg_header):
            assert read(cut) == read_jpeg_info(PROGRESSIVE)._replace(all_scans=False)


def test_a_scan_sent_twice_is_not_plain():
    last = PROGRESSIVE.rindex(SCAN)
    assert not read_jpeg_info(PROGRESSIVE[:-2] + PROGRESSIVE[last:]).all_scans
    assert not read_jpeg_info(PROGRESSIVE[:-2] + PROGRESSIVE[PROGRESSIVE.index(SCAN) :]).all_scans


@pytest.mark.parametrize("optimize", [False, True])
def test_tables_between_scans(optimize):
    start, scans = scan_by_scan(optimize=optimize)
    data = start + b"".join(tables + scan for tables, scan in scans) + END
    planes = [jpeg(plane, optimize=optimize) for plane in picture().convert("YCbCr").split()]
    colours = [Image.open(io.BytesIO(plane)) for plane in planes]
    expected = np.asarray(Image.merge("YCbCr", colours).convert("RGB")).astype(int)
    assert np.abs(pixels(data) - expected).max() <= 1
    late = start + b"".join(scan + tables for tables, scan in scans) + END
    two = start + b"".join(tables + scan for tables, scan in scans[:2]) + END
    again = data[:-2] + b"".join(scans[2]) + END
    for read in (read_jpeg_info, read_jpeg_header):
        plain = read(data)
        assert plain.is_plain
        assert read(late) == plain._replace(own_tables=False)
        assert read(two) == read(again) == plain._replace(all_scans=False)


@pytest.mark.parametrize("kept", range(4))
def test_a_file_without_a_table_depends_on_the_decoder(kept):
    odd = without(BASELINE, HUFFMAN_TABLES, keep=kept)
    assert np.array_equal(pixels(odd), pixels(BASELINE)), "libjpeg knows the standard ones"
    for read in (read_jpeg_info, read_jpeg_header):
        assert read(odd) == read_jpeg_info(BASELINE)._replace(own_tables=False)
    assert pixels(without(PROGRESSIVE, HUFFMAN_TABLES)) is None
    assert not read_jpeg_info(without(PROGRESSIVE, HUFFMAN_TABLES)).own_tables


@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_pillows_sampling_is_usual(subsampling):
    assert read_jpeg_info(jpeg(subsampling=subsampling)).is_plain


USUAL = [(0x11, 0x11, 0x11), (0x41, 0x11, 0x11), (0x12, 0x11, 0x11)]
ODD = [(0x22, 0x21, 0x11), (0x31, 0x11, 0x11), (0x11, 0x22, 0x11), (0x22,) * 3, (0x14, 0x11, 0x11)]


@pytest.mark.parametrize("factors", [*USUAL, *ODD])
def test_other_sampling(factors):
    usual = factors in USUAL
    at = BASELINE.index(FRAME)
    frame = bytearray(BASELINE[at : at + 19])
    frame[11::3] = bytes(factors)
    odd = BASELINE[:at] + bytes(frame) + BASELINE[at + 19 :]
    assert read_jpeg_info(odd).usual_sampling == read_jpeg_info(odd).is_plain == usual
    frame[10::3] = bytes([1, 2, 2])
    assert not read_jpeg_info(BASELINE[:at] + bytes(frame) + BASELINE[at + 19 :]).usual_sampling


def test_a_second_frame_header_or_one_of_no_height_ends_the_file():
    parts, rest = header(BASELINE)
    frame = next(part for part in parts if part.startswith(FRAME))
    twice = joined([*parts, frame], rest)
    assert pixels(twice) is None and not read_jpeg_info(twice).complete
    flat = BASELINE.replace(frame, frame[:5] + b"\0\0" + frame[7:])
    assert pixels(flat) is None and read_jpeg_info(flat) is None


def scans_of(data):
    """Return the bytes from the header of the first scan to the end."""
    return data[data.index(SCAN) :]


JUNK = st.binary(max_size=4) | st.sampled_from([b"\xff\xe1\0\1", b"\xff\xff", SCAN, END])


@needs_native
@given(
    st.sampled_from([name for name in FILES if name != "restarts"]),
    st.lists(st.tuples(st.integers(0, 1 << 12), st.integers(0, 3), JUNK), min_size=1, max_size=3),
)
def test_what_libjpeg_reads_without_damage_is_complete(name, changes):
    """Bytes at any position are replaced by others, possibly more or fewer."""
    data = FILES[name]
    for place, doomed, junk in changes:
        at = 2 + place % (len(data) - 2)
        data = data[:at] + junk + data[at + doomed :]
    found, status = pixels(data), native_library.inspect_jpeg(data).status
    # If the library leaves a file to Pillow, only untouched scans are known to be intact.
    unknown = status == native_library.UNSUPPORTED and not data.endswith(scans_of(FILES[name]))
    if found is None or status == native_library.DAMAGED or unknown:
        return
    info, quick = read_jpeg_info(data), read_jpeg_header(data)
    assert info.complete and (info.height, info.width) == found.shape[:2]
    assert info.is_plain or quick is None or not quick.is_plain
    repaired, faults = repair_jpeg(data, Image.fromarray(found))
    assert (repaired == data) == (not faults)
    if faults:
        assert read_jpeg_info(repaired) == info._replace(tidy=True, own_tables=True)
        assert np.array_equal(pixels(repaired), found)
