"""The engine's crop decode equals Pillow's full decode for all kinds of files and windows."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image

from fastimae.loaders import native_library
from fastimae.loaders.native_library import DAMAGED, MISMATCH, OK, ROW_START, UNSUPPORTED

library = native_library.load()
pytestmark = pytest.mark.skipif(library is None, reason=native_library.why_missing())

KINDS = {
    "4:4:4": {"subsampling": "4:4:4"},
    "4:2:2": {"subsampling": "4:2:2"},
    "4:2:0": {"subsampling": "4:2:0"},
    "4:2:0, coarse": {"subsampling": "4:2:0", "quality": 20},
    "4:2:0, fine": {"subsampling": "4:2:0", "quality": 100},
    "4:4:0": {"subsampling": "4:2:2"},
    "4:1:1": {"subsampling": "4:2:0"},
    "gray": {"gray": True},
    "RGB": {"keep_rgb": True},
    "own tables": {"optimize": True},
    "progressive": {"progressive": True},
    "progressive gray": {"progressive": True, "gray": True},
    "restarts in rows": {"restart_marker_blocks": 3},
    "restart each row": {"restart_marker_rows": 1},
    "restarts, gray": {"restart_marker_blocks": 5, "gray": True},
    "restarts, progressive": {"restart_marker_blocks": 7, "progressive": True},
    "EXIF": {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"},
    "a comment": {"comment": b"\xff\xd9 not the end"},
}
SAMPLING = {"4:4:0": (0x21, 0x12), "4:1:1": (0x22, 0x41)}


def picture(rng, height, width, gray=False):
    """Make an image of smooth areas, edges and noise."""
    shape = (height, width) if gray else (height, width, 3)
    small = rng.integers(0, 256, (3, 4, *shape[2:])).astype(np.uint8)
    image = np.array(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))
    image[height // 3 :, width // 2 :] = rng.integers(0, 256, 3 if not gray else 1)
    rows = slice(0, max(1, height // 4))
    image[rows] = rng.integers(0, 256, image[rows].shape)
    return image


def jpeg(kind, rng, height, width):
    """Encode a file of one of KINDS."""
    options = {"quality": 85, **KINDS[kind]}
    gray = options.pop("gray", False)
    if kind in SAMPLING:
        # Encode with another arrangement of as many blocks an MCU, then change the header: the
        # picture is scrambled, but the file is valid if both have the same number of MCUs.
        height, width = height // 16 * 16 + 16, width // 32 * 32 + 32
    buffer = io.BytesIO()
    Image.fromarray(picture(rng, height, width, gray)).save(buffer, "JPEG", **options)
    data = bytearray(buffer.getvalue())
    if kind in SAMPLING:
        before, after = SAMPLING[kind]
        frame = data.index(b"\xff\xc0")
        assert data[frame + 11] == before
        data[frame + 11] = after
        data[frame + 5 : frame + 7] = (height - 3).to_bytes(2)
        data[frame + 7 : frame + 9] = (width - 5).to_bytes(2)
    return bytes(data)


def random_window(rng, height, width):
    top, left = rng.integers(0, height), rng.integers(0, width)
    tall, wide = rng.integers(1, height - top + 1), rng.integers(1, width - left + 1)
    return int(top), int(left), int(tall), int(wide)


def full_decode(data):
    image = Image.open(io.BytesIO(data))
    pixels = np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))
    return pixels.reshape(*pixels.shape[:2], -1)


def assert_window_is_exact(data, whole, window, **options):
    status, problem, pixels = library.decode(data, whole.shape[:2], window, **options)
    assert (status, problem) == (OK, "")
    top, left, height, width = window
    expected = whole[top : top + height, left : left + width]
    np.testing.assert_array_equal(pixels, expected, err_msg=f"{whole.shape} {window}")


@pytest.mark.parametrize("own_entropy", [True, False], ids=["own entropy", "libjpeg's"])
@pytest.mark.parametrize("kind", KINDS)
def test_windows_equal_a_full_decode(kind, own_entropy):
    rng = np.random.default_rng(zlib.crc32(kind.encode()))
    for _ in range(6):
        height, width = (int(side) for side in rng.integers(1, 150, 2))
        data = jpeg(kind, rng, height, width)
        whole = full_decode(data)
        rows = library.inspect_jpeg(data).rows
        for _ in range(8):
            window = random_window(rng, *whole.shape[:2])
            known = rows[: rng.integers(0, len(rows) + 1)]
            for given in (None, known, rows):
                assert_window_is_exact(data, whole, window, own_entropy=own_entropy, rows=given)


@pytest.mark.parametrize("kind", KINDS)
def test_tiny_images(kind):
    rng = np.random.default_rng(3)
    for height, width in [(1, 1), (1, 17), (17, 1), (2, 3), (8, 8), (16, 16), (9, 33)]:
        data = jpeg(kind, rng, height, width)
        whole = full_decode(data)
        for _ in range(5):
            assert_window_is_exact(data, whole, random_window(rng, *whole.shape[:2]))


def test_our_huffman_decoder_is_in_use():
    assert library.own_entropy()


def test_inspect_finds_the_rows_of_baseline_files_only():
    rng = np.random.default_rng(0)
    found = library.inspect_jpeg(jpeg("4:2:0", rng, 100, 70))
    assert found.status == OK
    assert found.problem is None
    assert found.rows.dtype == ROW_START
    assert len(found.rows) == -(-100 // 16)
    assert (np.diff(found.rows["bit"].astype(np.int64)) > 0).all()
    assert len(library.inspect_jpeg(jpeg("progressive", rng, 100, 70)).rows) == 0


@pytest.mark.parametrize("kind", ["4:2:0", "gray", "restart each row", "progressive"])
def test_damage_is_noticed(kind):
    rng = np.random.default_rng(1)
    data = jpeg(kind, rng, 120, 120)
    for cut in np.linspace(700, len(data) - 10, 20).astype(int):
        found = library.inspect_jpeg(data[:cut])
        assert found.status == DAMAGED
        assert found.problem
        if kind != "progressive":  # complete after each scan, at a coarser quality
            found = library.inspect_jpeg(data[:cut] + b"\xff\xd9")
            assert found.status == DAMAGED
    for junk in (b"", b"\xff\xd8", b"GIF89a", bytes(1000)):
        assert library.inspect_jpeg(junk).status == DAMAGED


def test_a_cut_below_the_window_does_not_matter():
    rng = np.random.default_rng(2)
    data = jpeg("4:2:0", rng, 160, 160)
    whole = full_decode(data)
    half = data[: len(data) * 3 // 4]
    assert_window_is_exact(half, whole, (0, 0, 16, 160))
    status, problem, _ = library.decode(half, (160, 160), (0, 0, 160, 160))
    assert status == DAMAGED
    assert "premature" in problem.lower()


def test_a_file_is_sound_whatever_its_index_says():
    rng = np.random.default_rng(4)
    data = jpeg("4:2:0", rng, 120, 120)
    rows = library.inspect_jpeg(data).rows
    for _ in range(300):
        wrong = rows.copy()
        wrong["bit"] = rng.integers(0, 2**32, len(rows), dtype=np.uint32)
        wrong["dc"] = rng.integers(-(2**15), 2**15, wrong["dc"].shape)
        status, problem, _ = library.decode(data, (120, 120), (40, 40, 50, 50), rows=wrong)
        assert (status, problem) == (OK, "")


def test_another_size_than_expected():
    data = jpeg("4:2:0", np.random.default_rng(0), 40, 50)
    status, problem, _ = library.decode(data, (50, 40), (0, 0, 10, 10))
    assert status == MISMATCH
    assert "40 x 50" in problem


def test_cmyk_is_left_to_pillow():
    buffer = io.BytesIO()
    Image.new("CMYK", (20, 20), (1, 2, 3, 4)).save(buffer, "JPEG")
    assert library.decode(buffer.getvalue(), (20, 20), (0, 0, 9, 9))[0] == UNSUPPORTED


def test_huge_images_are_refused(monkeypatch):
    data = jpeg("4:2:0", np.random.default_rng(0), 100, 100)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 9999)
    found = library.inspect_jpeg(data)
    assert found.status == DAMAGED
    assert "over --max_pixels 9999" in found.problem


def test_endless_scans_are_refused():
    data = jpeg("progressive", np.random.default_rng(0), 16, 16)
    last = data.rindex(b"\xff\xda")
    status, problem, _ = library.decode(
        data[:-2] + data[last:-2] * 300 + data[-2:], (16, 16), (0, 0, 16, 16)
    )
    assert status == DAMAGED
    assert "scans" in problem or "progression" in problem.lower()


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 1000])
def test_crc32_is_zlibs(size):
    data = np.random.default_rng(size).integers(0, 256, size).astype(np.uint8)
    assert library.crc32(data.ctypes.data, size) == zlib.crc32(data)
