"""Odd JPEGs that Pillow decodes: repaired without loss if possible, else re-encoded."""

import numpy as np
import odd_jpegs
import pytest

from fastimae.loaders import native_library
from fastimae.loaders.convert.encode import EncodeSettings, check_jpeg, encode
from fastimae.loaders.image_location import SkipImage
from fastimae.loaders.images.jpeg import read_jpeg_info

BASELINE, PROGRESSIVE = odd_jpegs.jpeg(), odd_jpegs.jpeg(progressive=True)
JUNK = {
    "before the tables": (odd_jpegs.QUANTISATION_TABLES, b"A"),
    "before the frame": (odd_jpegs.FRAME, b"\0\0 text"),
    "before the scan": (odd_jpegs.SCAN, b"\0"),
    "restart": (odd_jpegs.SCAN, b"\xff\xd0"),
    "too short": (odd_jpegs.FRAME, b"\xff\xe1\0\x04Exif\0\0ab"),
    "no length": (odd_jpegs.FRAME, b"\xff\xe1\0\0Exif\0\0ab"),
    "too long": (odd_jpegs.FRAME, b"\xff\xe1\0\x0cExif\0\0\xff\xfe\0\x09remark"),
}


@pytest.mark.parametrize(("place", "junk"), JUNK.values(), ids=JUNK)
def test_stray_bytes_and_wrong_lengths_are_repaired(place, junk):
    """Pillow and browsers accept such files."""
    data = odd_jpegs.inserted(BASELINE, place, junk)
    sample = encode(data, EncodeSettings())
    assert sample.how == "JPEG with stray bytes, mended"
    assert sample.payload == BASELINE
    assert np.array_equal(odd_jpegs.pixels(data), odd_jpegs.pixels(BASELINE))
    assert check_jpeg(data).info.complete, "verification must not repair"


def test_stray_bytes_between_scans_are_repaired():
    last, comment = PROGRESSIVE.rindex(odd_jpegs.SCAN), b"\xff\xfe\0\x04hi"
    data = PROGRESSIVE[:last] + comment + b"left" + PROGRESSIVE[last:]
    sample = encode(data, EncodeSettings())
    assert sample.how == "JPEG with stray bytes, mended"
    assert sample.payload == PROGRESSIVE[:last] + comment + PROGRESSIVE[last:]


@pytest.mark.parametrize("kept", range(4))
@pytest.mark.parametrize("junk", [b"", b"A"], ids=["tidy", "stray"])
def test_a_frame_of_motion_jpeg_gets_the_standard_tables(kept, junk):
    """Otherwise each decoder would use whatever tables it has."""
    data = odd_jpegs.without(BASELINE, odd_jpegs.HUFFMAN_TABLES, keep=kept)
    data = odd_jpegs.inserted(data, odd_jpegs.SCAN, junk)
    sample = encode(data, EncodeSettings())
    stray = "with stray bytes and " if junk else ""
    assert sample.how == f"JPEG {stray}without tables, mended"
    assert np.array_equal(odd_jpegs.pixels(sample.payload), odd_jpegs.pixels(BASELINE))
    info = read_jpeg_info(sample.payload)
    assert info.is_plain
    assert info.own_tables
    with pytest.raises(SkipImage):
        encode(odd_jpegs.without(PROGRESSIVE, odd_jpegs.HUFFMAN_TABLES), EncodeSettings())


def test_own_tables_win_over_the_standard_ones():
    """The first scan needs the standard tables, the others define their own in the same slots."""
    start, ((_, first), *_) = odd_jpegs.scan_by_scan()
    _, (_, *others) = odd_jpegs.scan_by_scan(optimize=True)
    data = start + first + b"".join(tables + scan for tables, scan in others) + b"\xff\xd9"
    sample = encode(data, EncodeSettings())
    assert sample.how == "JPEG without tables, mended"
    assert np.array_equal(odd_jpegs.pixels(sample.payload), odd_jpegs.pixels(data))


def test_tables_between_scans_are_no_reason_to_encode():
    start, scans = odd_jpegs.scan_by_scan(optimize=True)
    data = start + b"".join(tables + scan for tables, scan in scans) + b"\xff\xd9"
    assert encode(data, EncodeSettings()).payload == data
    start, scans = odd_jpegs.scan_by_scan()
    data = start + b"".join(scan for _, scan in scans) + b"\xff\xd9"
    sample = encode(data, EncodeSettings())
    assert sample.how == "JPEG without tables, mended"
    assert np.array_equal(odd_jpegs.pixels(sample.payload), odd_jpegs.pixels(data))


@pytest.mark.parametrize("count", [1, 4, 9])
def test_files_without_all_scans_are_encoded_as_pillow_decodes_them(count):
    data = odd_jpegs.first_scans(PROGRESSIVE, count)
    sample = encode(data, EncodeSettings(jpeg_quality=95))
    assert sample.how == "JPEG without all its scans"
    shown, expected = odd_jpegs.pixels(sample.payload), odd_jpegs.pixels(data)
    assert np.abs(shown.astype(float) - expected).mean() < 2


@pytest.mark.skipif(native_library.load() is None, reason=native_library.why_missing())
def test_damage_in_an_odd_file_is_noticed():
    odd = odd_jpegs.inserted(BASELINE, odd_jpegs.FRAME, b"A")
    for data in (odd, odd_jpegs.without(BASELINE, odd_jpegs.HUFFMAN_TABLES)):
        with pytest.raises(SkipImage, match=r"^damaged JPEG: "):
            encode(data[: len(data) * 4 // 5] + b"\xff\xd9", EncodeSettings())
    scan = PROGRESSIVE.rindex(odd_jpegs.SCAN)
    headless = PROGRESSIVE[:scan] + b"xx" + PROGRESSIVE[scan + 10 :]
    assert odd_jpegs.pixels(headless) is not None
    with pytest.raises(SkipImage, match=r"^damaged JPEG: "):
        encode(headless, EncodeSettings())
