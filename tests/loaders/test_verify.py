"""Verification: each kind of damage is found in the right sample, and named."""

import io

import numpy as np
import pytest
from PIL import Image

from fastimae.loaders import native_library
from fastimae.loaders.beton import BetonReader, BetonWriter
from fastimae.loaders.convert import ConvertOptions, convert
from fastimae.loaders.items import Item
from fastimae.loaders.native_library import OK, Inspection
from fastimae.loaders.trailer import ROW_START, make_trailer
from fastimae.loaders.verify import Sample, check_sample

HEIGHT, WIDTH, COUNT = 40, 60, 6


def jpeg(number):
    pixels = np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def write(path, trailer=None, raw=()):
    with BetonWriter(path, page_size=1 << 16) as writer:
        for number in range(COUNT):
            mode = "raw" if number in raw else "jpg"
            payload = bytes(HEIGHT * WIDTH * 3) if mode == "raw" else jpeg(number)
            writer.append(payload, height=HEIGHT, width=WIDTH, mode=mode, trailer=trailer)
    return path


def verify(path):
    return convert(ConvertOptions(src=str(path), verify=True, workers=2))


def change(path, position, data):
    with path.open("r+b") as file:
        file.seek(position)
        file.write(data)


def sample(data, height=HEIGHT, width=WIDTH, is_jpeg=True, trailer=b""):
    return Sample(Item("", inline=data + trailer), len(data), height, width, is_jpeg)


def test_sound_file(tmp_path):
    report = verify(write(tmp_path / "a.beton", raw={2}))
    assert (report.bad, report.exit_status()) == ([], 0)
    assert "  every sample decodes\n  every checksum is right" in report.summary()


def test_file_without_checksums(tmp_path):
    summary = verify(write(tmp_path / "a.beton", trailer=b"")).summary()
    assert "the file has no checksums: damage that still decodes goes unnoticed" in summary
    assert "checksum is right" not in summary


def test_some_samples_without_checksums(tmp_path):
    path = tmp_path / "a.beton"
    with BetonWriter(path, page_size=1 << 16) as writer:
        for number, trailer in enumerate((None, b"", b"")):
            writer.append(jpeg(number), height=HEIGHT, width=WIDTH, trailer=trailer)
    assert "2 samples have no checksum" in verify(path).summary()


def test_each_damage_is_named(tmp_path):
    path = write(tmp_path / "a.beton", raw={2})
    with BetonReader(path) as reader:
        starts, sizes = zip(*map(reader.region, range(COUNT)), strict=True)
        trailers = reader.trailer_positions.tolist()
    change(path, starts[1] + sizes[1] - 3, b"\0")  # one that decodes
    change(path, starts[2] + 777, b"\1")
    change(path, trailers[3] + 4, b"\0\0\0\0")
    change(path, trailers[4], b"\0")
    report = verify(path)
    checksum = "its bytes are not those that were written: the checksum differs"
    assert report.bad == [
        ("sample 1", checksum),
        ("sample 2", checksum),
        ("sample 3", "its trailer is damaged"),
        ("sample 4", "what follows it is not a trailer"),
    ]
    assert report.exit_status() == 1
    assert "sample 3: its trailer is damaged" in report.summary()
    assert "checksum is right" not in report.summary()


def test_damage_in_a_file_without_checksums(tmp_path):
    path = write(tmp_path / "a.beton", trailer=b"")
    with BetonReader(path) as reader:
        start, size = reader.region(5)
    change(path, start + size // 2, bytes(size - size // 2))
    assert [name for name, _ in verify(path).bad] == ["sample 5"]


def test_wrong_sizes_and_damage():
    data = jpeg(0)
    assert check_sample(sample(data)) is None
    assert "not 60 x 40" in check_sample(sample(data, 60, 40))
    assert "truncated" in check_sample(sample(data[:-40]))
    assert check_sample(sample(bytes(12), 2, 2, is_jpeg=False)) is None
    png = io.BytesIO()
    Image.new("RGB", (WIDTH, HEIGHT)).save(png, "PNG")
    assert "a PNG" in check_sample(sample(png.getvalue()))


@pytest.mark.parametrize("bit", [4000, 4001])
def test_rows_are_compared_with_those_of_the_image(monkeypatch, bit):
    rows = np.array([(4000, (0, 0, 0, 0)), (9000, (1, 2, 3, 0))], ROW_START)
    monkeypatch.setattr(native_library, "load", object)
    monkeypatch.setattr(native_library, "inspect_jpeg", lambda _: Inspection(OK, None, rows))
    data, written = jpeg(0), rows.copy()
    written["bit"][0] = bit
    reason = check_sample(sample(data, trailer=make_trailer(data, written, 3)))
    assert reason == (None if bit == 4000 else "its trailer names other starts of rows than it has")


@pytest.mark.skipif(native_library.load() is None, reason="the native library is not built")
def test_cut_entropy_data_is_noticed_without_a_checksum():
    data = jpeg(0)
    cut = data[: len(data) * 2 // 3] + b"\xff\xd9"
    Image.open(io.BytesIO(cut)).load()  # without a word
    assert check_sample(sample(cut)).startswith("damaged JPEG: ")
