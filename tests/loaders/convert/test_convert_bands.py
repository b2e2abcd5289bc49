"""Conversion of arrays, TIFFs of many bands and images of 16 bits: kept as they are, or skipped."""

import io
import json
import re
import struct
import sys
import zlib

import numpy as np
import pytest
from bands import make_images
from PIL import Image

from fastimae.loaders import BetonReader, BetonWriter, DataError, create_loader
from fastimae.loaders.beton.image import open_sample
from fastimae.loaders.convert import run as convert_run
from fastimae.loaders.convert import statistics as statistics_of_files
from fastimae.loaders.convert.options import ConvertOptions
from fastimae.loaders.convert.run import convert
from fastimae.loaders.image_location import SkipImage
from fastimae.loaders.images.band_files import open_any
from fastimae.loaders.images.bands import BandImage
from fastimae.loaders.images.pixel_form import RGB8, PixelForm
from fastimae.models.settings import ModelSettings

U16_6, U8_6 = PixelForm(6, np.dtype("u2")), PixelForm(6, np.dtype("u1"))


@pytest.fixture
def run(tmp_path):
    """Return a function that converts tmp_path/in, and returns the report."""
    source = tmp_path / "in"
    source.mkdir()

    def run(**options):
        options = {"src": str(source), "out": tmp_path / "out.beton", "workers": 1, **options}
        return convert(ConvertOptions(**options))

    run.source, run.out = source, tmp_path / "out.beton"
    return run


def stored(path):
    """Return the pixels of all samples, in the order of their labels."""
    with BetonReader(path) as reader:
        pixels = [open_sample(reader, i).pixels_HWC.copy() for i in range(len(reader))]
        return [pixels[i] for i in np.argsort(reader.labels)], reader.form


def same(first, second):
    return len(first) == len(second) and all(map(np.array_equal, first, second))


def save_classes(folder, images):
    """Save one array in each class folder, so that its label is its number."""
    for i, pixels in enumerate(images):
        (folder / f"{i}").mkdir()
        np.save(folder / f"{i}" / "x.npy", pixels)


@pytest.mark.parametrize("form", [U8_6, U16_6, PixelForm(1, np.dtype("u2"))], ids=str)
def test_arrays_are_kept(run, form):
    images = make_images(form, 5)
    save_classes(run.source, images)
    report = run(verify=True)
    pixels, kept = stored(run.out)
    assert kept == form
    assert same(pixels, images)
    assert (report.samples, report.bad, report.skipped) == (5, [], [])


def test_byte_orders_and_layouts(run):
    images = make_images(U16_6, 4)
    variants = [
        images[0].astype(">u2"), np.asfortranarray(images[1]),
        np.moveaxis(images[2], -1, 0), images[3],
    ]  # fmt: skip
    save_classes(run.source, variants)
    run()
    assert same(stored(run.out)[0], images)


def test_first_decides_and_others_are_named(run):
    one, two = make_images(U16_6, 2)
    for name, pixels in [("a", one), ("b", two[..., :5]), ("c", one.astype("u1")), ("d", two)]:
        np.save(run.source / f"{name}.npy", pixels)
    np.save(run.source / "e.npy", one.astype(np.float32))
    (run.source / "f.npy").write_bytes(b"\x93NUMPY")
    report = run()
    assert report.samples == 2
    reasons = {name.rpartition("/")[2]: reason for name, reason in report.skipped}
    assert reasons.pop("b.npy") == "5 x uint16 where the data set has 6 x uint16"
    assert reasons.pop("c.npy") == "6 x uint8 where the data set has 6 x uint16"
    assert "float32 values" in reasons.pop("e.npy")
    assert "damaged .npy" in reasons.pop("f.npy")
    assert not reasons


@pytest.mark.parametrize(
    ("shape", "values", "reason"),
    [
        ("(40, 40, 6)", 100, "damaged .npy: 100 bytes of values"),
        ("(400000, 400000, 6)", 100, "damaged .npy: 100 bytes of values"),
        ("(-4, 20, 6)", 960, r"damaged .npy: .* \[-4, 20, 6\]"),
        ("(4, 4", 100, "damaged .npy"),
    ],
)
def test_headers_that_lie_are_damage(shape, values, reason):
    header = f"{{'descr': '<u2', 'fortran_order': False, 'shape': {shape}}}".encode().ljust(99)
    file = b"\x93NUMPY\x01\x00" + struct.pack("<H", 100) + header + b"\n" + bytes(values)
    with pytest.raises(SkipImage, match=reason):
        open_any(file)


def test_arrays_are_opened_without_a_copy():
    pixels = make_images(U16_6, 1)[0]
    file = io.BytesIO()
    np.save(file, pixels)
    opened = open_any(data := file.getvalue()).pixels_HWC
    assert np.array_equal(opened, pixels)
    assert np.shares_memory(opened, np.frombuffer(data, np.uint8))


def test_a_fourth_channel_of_an_array_is_no_alpha(run):
    np.save(run.source / "a.npy", make_images(PixelForm(4, RGB8.dtype), 1)[0])
    for channels in (1, 3):
        with pytest.raises(DataError, match=f"4 x uint8 pixels, and --in_chans is {channels}"):
            create_loader(data_path=run.source, in_chans=channels, batch_size=1, num_workers=0)


def test_in_chans_decides(run):
    one, two = make_images(U16_6, 2)
    np.save(run.source / "a.npy", one[..., :5])
    np.save(run.source / "b.npy", two)
    run(in_chans=6)
    pixels, form = stored(run.out)
    assert (form, len(pixels)) == (U16_6, 1)


def test_arrays_beside_images_are_not_images(run):
    np.save(run.source / "a.npy", make_images(U16_6, 1)[0])
    Image.new("RGB", (20, 20)).save(run.source / "b.png")
    assert run().samples == 1
    with BetonReader(run.out) as reader:
        assert reader.form == RGB8


def test_list_of_arrays(run, tmp_path):
    images = make_images(U8_6, 2)
    for i, pixels in enumerate(images):
        np.save(run.source / f"{i}.npy", pixels)
    (tmp_path / "list.txt").write_text("in/0.npy 1\nin/1.npy 0\n")
    run(src=str(tmp_path / "list.txt"))
    assert same(stored(run.out)[0], images[::-1])


def test_arrays_like_images_are_images(run):
    np.save(run.source / "a.npy", np.full((20, 30, 3), 7, np.uint8))
    report = run()
    assert report.how == {"array": 1}
    with BetonReader(run.out) as reader:
        assert (reader.form, reader.is_jpeg.tolist()) == (RGB8, [True])


def test_longer_side_is_limited_by_the_same_filter(run):
    images = make_images(U16_6, 2, sides=(50, 80))
    save_classes(run.source, images)
    assert run(max_resolution=32).shrunk == {"--max_resolution 32": 2}
    for small, large in zip(stored(run.out)[0], images, strict=True):
        height, width = (max(1, round(n * 32 / max(large.shape))) for n in large.shape[:2])
        assert np.array_equal(small, BandImage(large).resize((width, height)).pixels_HWC)


def test_a_page_limits_the_size(run):
    save_classes(run.source, make_images(U16_6, 2, sides=(100, 101)))
    report = run(page_size=1 << 16, verify=True)
    assert (report.shrunk, report.bad) == ({"--page_size 65536": 2}, [])


@pytest.mark.parametrize("part", [1 << 22, 100])
def test_statistics_are_those_of_all_pixels(run, part, monkeypatch):
    monkeypatch.setattr(statistics_of_files, "_PART_BYTES", part)
    images = make_images(U16_6, 5)
    images = [image // np.arange(1, 7).astype("u2") for image in images]
    save_classes(run.source, images)
    statistics = run().statistics
    values = np.concatenate([image.reshape(-1, 6) for image in images]) / 65535
    np.testing.assert_allclose(statistics.mean, values.mean(0), atol=6e-5)
    np.testing.assert_allclose(statistics.std, values.std(0), atol=6e-5)
    manifest = json.loads(run.out.with_name("out.beton.json").read_text())
    assert (manifest["pixels"], manifest["statistics"]["mean"]) == ("6 x uint16", statistics.mean)
    assert "--mean 0.4" in str(statistics)


def test_statistics_of_dark_and_constant_channels_are_flags_that_training_takes(run):
    pixels = np.zeros((40, 50, 6), np.uint16)
    pixels[..., 1], pixels[::2, :, 1] = 10, 13
    save_classes(run.source, [pixels])
    statistics = run().statistics
    assert statistics.mean[1] == pytest.approx(11.5 / 65535, rel=1e-3)
    _, mean, std = re.split(r" --\w+ ", str(statistics))
    mean, std = (tuple(map(float, values.split())) for values in (mean, std))
    ModelSettings(mean=mean, std=std).check()
    assert std[:2] == (1, pytest.approx(1.5 / 65535, rel=1e-3))


def test_interrupted_conversion_resumes(run, monkeypatch):
    save_classes(run.source, make_images(U16_6, 6))
    run()
    complete = run.out.read_bytes()
    run.out.unlink()
    append, left = BetonWriter.append, [3]

    def append_three(*arguments, **sample):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        append(*arguments, **sample)

    with monkeypatch.context() as patched:
        patched.setattr(convert_run, "CHECKPOINT_SECONDS", 0.0)
        patched.setattr(BetonWriter, "append", append_three)
        with pytest.raises(KeyboardInterrupt):
            run()
    run()
    assert run.out.read_bytes() == complete


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reencode": True}, "--reencode has no effect on 6 x uint16"),
        ({"depth": 16, "value_range": (0, 9)}, "--value_range maps to 8 bits"),
    ],
)
def test_flags_that_do_not_fit(run, options, message):
    save_classes(run.source, make_images(U16_6, 1))
    with pytest.raises(DataError, match=message):
        run(**options)


def png16(pixels):
    """Encode uint16 [H, W, 3] as PNG, which Pillow cannot."""
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0))]
    chunks += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    packed = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def test_16_bit_png_is_kept_with_depth_16(run):
    rng = np.random.default_rng(0)
    gray = rng.integers(0, 65536, (20, 30), dtype=np.uint16)
    Image.fromarray(gray).save(run.source / "a.png")
    run(depth=16)
    assert np.array_equal(stored(run.out)[0][0][..., 0], gray)


def test_16_bit_colours_of_png_are_kept_with_depth_16(run):
    pytest.importorskip("imagecodecs")
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 65536, (20, 30, 3), dtype=np.uint16)
    (run.source / "a.png").write_bytes(png16(colours))
    Image.new("RGB", (9, 9)).save(run.source / "b.png")
    report = run(depth=16, overwrite=True)
    pixels, form = stored(run.out)
    assert (form, report.skipped[0][1]) == (
        PixelForm(3, np.dtype("u2")), "3 x uint8 where the data set has 3 x uint16",
    )  # fmt: skip
    assert np.array_equal(pixels[0], colours)
    run(overwrite=True)
    with BetonReader(run.out) as reader:
        assert (len(reader), reader.form) == (2, RGB8)


class TestTiff:
    """TIFFs, written and read by tifffile."""

    @pytest.fixture(autouse=True)
    def _needs_tifffile(self):
        self.tifffile = pytest.importorskip("tifffile")

    def written(self, pixels, **how):
        file = io.BytesIO()
        self.tifffile.imwrite(file, pixels, **{"photometric": "minisblack", **how})
        return file.getvalue()

    @pytest.mark.parametrize("planes", ["contig", "separate"])
    @pytest.mark.parametrize("form", [U8_6, U16_6, PixelForm(2, np.dtype("u2"))], ids=str)
    def test_bands(self, planes, form):
        pixels = make_images(form, 1)[0]
        as_written = pixels if planes == "contig" else np.moveaxis(pixels, -1, 0)
        data = self.written(as_written, planarconfig=planes, compression="zlib")
        assert np.array_equal(open_any(data).pixels_HWC, pixels)
        assert np.array_equal(open_any(data, form.channels).pixels_HWC, pixels)

    def test_colours_and_near_infrared(self):
        pixels = make_images(PixelForm(4, RGB8.dtype), 1)[0]
        data = self.written(pixels, photometric="rgb", extrasamples=["unspecified"])
        assert np.array_equal(open_any(data, 4).pixels_HWC, pixels)
        assert np.array_equal(np.asarray(open_any(data).convert("RGB")), pixels[..., :3])

    def test_16_bits(self):
        pixels = make_images(PixelForm(4, np.dtype("u2")), 1)[0]
        data = self.written(pixels, photometric="rgb", extrasamples=["unassalpha"])
        assert np.array_equal(open_any(data, depth=16).pixels_HWC, pixels[..., :3])
        gray = self.written(pixels[..., 0], photometric="miniswhite")
        assert np.array_equal(open_any(gray, depth=16).pixels_HWC[..., 0], 65535 - pixels[..., 0])

    def test_pages_are_channels_if_they_are_as_many(self):
        pixels = make_images(U16_6, 1)[0]
        file = io.BytesIO()
        with self.tifffile.TiffWriter(file) as writer:
            for band in np.moveaxis(pixels, -1, 0):
                writer.write(band, photometric="minisblack")
        assert np.array_equal(open_any(file.getvalue(), 6).pixels_HWC, pixels)

    def test_files_are_converted(self, run):
        images = make_images(U16_6, 3)
        for i, pixels in enumerate(images):
            (run.source / f"{i}").mkdir()
            (run.source / f"{i}" / "x.tif").write_bytes(self.written(pixels, planarconfig="contig"))
        (run.source / "0" / "y.tif").write_bytes(
            self.written(images[0], planarconfig="contig")[:2000]
        )
        report = run()
        assert same(stored(run.out)[0], images)
        assert "cannot be decoded" in report.skipped[0][1]


def test_without_tifffile_the_error_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(Exception, match=r"pip install 'fastimae\[bands\]'"):
        open_any(b"II*\0" + bytes(20), 6)
