"""Verification: every kind of damage is found in the right sample and named."""

import io

import numpy as np
import pytest
from older_beton import older_beton, older_trailer
from PIL import Image

from fastimae import cli
from fastimae.loaders import native_library
from fastimae.loaders.beton.reader import BetonReader, BetonWriter
from fastimae.loaders.beton.trailer import ROW_START, make_trailer
from fastimae.loaders.convert.run import ConvertOptions, convert
from fastimae.loaders.convert.verify import WrittenSample, check_sample
from fastimae.loaders.image_location import ImageLocation
from fastimae.loaders.native_library import OK, Inspection

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
    item = ImageLocation("", inline=data + trailer)
    return WrittenSample(item, len(data), height, width, is_jpeg, has_trailers=bool(trailer))


def test_intact_file(tmp_path):
    report = verify(write(tmp_path / "a.beton", raw={2}))
    assert (report.bad, report.exit_status()) == ([], 0)
    assert "  every sample decodes\n  every checksum is correct" in report.summary()


def test_file_without_checksums(tmp_path):
    summary = verify(write(tmp_path / "a.beton", trailer=b"")).summary()
    assert "the file has no checksums: damage that still decodes goes unnoticed" in summary
    assert "checksum is correct" not in summary


def older(path, trailers):
    """Make a file as it was written before the table had a checksum."""
    samples = [
        (jpeg(number), HEIGHT, WIDTH, "jpg", number, trailer and older_trailer(jpeg(number)))
        for number, trailer in enumerate(trailers)
    ]
    path.write_bytes(older_beton(samples, 1 << 16))
    return path


def test_older_file_is_recognised(tmp_path):
    report = verify(older(tmp_path / "a.beton", [True] * 3))
    assert (report.bad, report.exit_status()) == ([], 0)
    assert "its labels have no checksum: convert again to add one" in report.summary()
    assert "the file has no checksums" not in report.summary()
    assert "every checksum is correct" not in report.summary()


def test_a_sample_without_a_checksum_among_others_is_bad(tmp_path):
    report = verify(older(tmp_path / "a.beton", [True, b"", True]))
    reason = "it has no checksum, unlike other samples of the file"
    assert (report.bad, report.exit_status()) == ([("sample 1", reason)], 1)


def test_a_changed_label_is_one_line_and_a_failure(tmp_path, capsys):
    path = write(tmp_path / "a.beton")
    assert cli.convert([str(path), "--verify"]) == 0
    capsys.readouterr()
    change(path, 24 + 2 * 1041 + 3 * 24 + 16, b"\1")  # the label of sample 3
    assert cli.convert([str(path), "--verify"]) not in (0, None)
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1
    assert f"{path}: damaged, its table (labels," in said.err


def test_each_damage_is_named(tmp_path):
    path = write(tmp_path / "a.beton", raw={2})
    with BetonReader(path) as reader:
        starts, sizes = zip(*map(reader.region, range(COUNT)), strict=True)
        trailers = reader.trailer_positions.tolist()
    change(path, starts[1] + sizes[1] - 3, b"\0")  # the file still decodes
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
    assert "checksum is correct" not in report.summary()


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
    assert check_sample(sample(data[:-40])) is not None
    assert check_sample(sample(bytes(12), 2, 2, is_jpeg=False)) is None
    png = io.BytesIO()
    Image.new("RGB", (WIDTH, HEIGHT)).save(png, "PNG")
    reason = check_sample(sample(png.getvalue()))
    assert "a PNG" in reason or reason.startswith("Not a JPEG file")


@pytest.mark.parametrize("bit", [4000, 4001])
def test_rows_are_compared_with_those_of_the_image(monkeypatch, bit):
    rows = np.array([(4000, (0, 0, 0, 0)), (9000, (1, 2, 3, 0))], ROW_START)
    monkeypatch.setattr(native_library, "load", object)
    monkeypatch.setattr(native_library, "inspect_jpeg", lambda _: Inspection(OK, None, rows))
    data, written = jpeg(0), rows.copy()
    written["bit"][0] = bit
    reason = check_sample(sample(data, trailer=make_trailer(data, written, 3)))
    assert reason == (None if bit == 4000 else "the row starts in its trailer are wrong")


@pytest.mark.skipif(native_library.load() is None, reason="the native library is not built")
def test_cut_entropy_data_is_noticed_without_a_checksum():
    data = jpeg(0)
    cut = data[: len(data) * 2 // 3] + b"\xff\xd9"
    Image.open(io.BytesIO(cut)).load()  # no error from Pillow
    assert "premature end" in check_sample(sample(cut))
    assert "premature end" in check_sample(sample(cut, trailer=make_trailer(cut)))
