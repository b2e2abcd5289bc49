"""Conversion of one image: passed through, encoded again, or skipped with a reason."""

import io
import os
import zlib

import numpy as np
import pytest
from PIL import Image

from fastimae.loaders import native_library
from fastimae.loaders.beton.trailer import ROW_START, largest_trailer, read_trailer
from fastimae.loaders.convert.encode import (
    PASSED_THROUGH,
    EncodeSettings,
    check_jpeg,
    encode,
    encode_item,
)
from fastimae.loaders.image_location import ImageLocation, SkipImage
from fastimae.loaders.native_library import DAMAGED, OK, UNSUPPORTED, Inspection

SETTINGS = EncodeSettings()
RAW = EncodeSettings(mode="raw")
REENCODE = EncodeSettings(reencode=True)
needs_native = pytest.mark.skipif(native_library.load() is None, reason="it is not built")


def picture(height=40, width=60, mode="RGB"):
    """Make a smooth colour image, which JPEG compresses well."""
    y, x = np.mgrid[0:height, 0:width]
    planes = [255 * y / height, 255 * x / width, 255 * (x + y) / (height + width)]
    image = Image.fromarray(np.stack(planes, axis=-1).astype(np.uint8))
    return image.quantize(64, dither=Image.Dither.NONE) if mode == "P" else image.convert(mode)


def file_bytes(image, kind="JPEG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decoded(sample):
    if sample.mode == "raw":
        return np.frombuffer(sample.payload, np.uint8).reshape(sample.height, sample.width, 3)
    image = Image.open(io.BytesIO(sample.payload))
    assert image.format == "JPEG"
    assert image.size == (sample.width, sample.height)
    return np.asarray(image.convert("RGB"))


def mean_difference(sample, image):
    return np.abs(decoded(sample).astype(float) - np.asarray(image.convert("RGB"))).mean()


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("RGB", {}),
        ("RGB", {"progressive": True}),
        ("RGB", {"subsampling": 0, "quality": 40}),
        ("RGB", {"restart_marker_rows": 1}),
        ("L", {}),
        ("RGB", {"exif": Image.Exif(), "comment": b"\xff\xd9 \xff\xda in a comment"}),
    ],
)
def test_legal_jpeg_is_untouched(mode, options):
    data = file_bytes(picture(mode=mode), **options)
    sample = encode(data, SETTINGS)
    assert sample.payload == data
    assert (sample.height, sample.width, sample.how) == (40, 60, PASSED_THROUGH)


def test_bytes_after_the_end_marker_do_not_matter():
    data = file_bytes(picture()) + b"trailing \xff\xd8 rubbish"
    assert encode(data, SETTINGS).payload == data


def test_orientation_is_not_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # a rotation by 90 degrees
    sample = encode(file_bytes(picture(), "PNG", exif=exif), SETTINGS)
    assert (sample.height, sample.width) == (40, 60)


@pytest.mark.parametrize(
    ("kind", "mode", "options", "how"),
    [
        ("PNG", "RGB", {}, "PNG"),
        ("PNG", "P", {}, "PNG"),
        ("PNG", "L", {}, "PNG"),
        ("PNG", "1", {}, "PNG"),
        ("WEBP", "RGB", {"lossless": True}, "WEBP"),
        ("BMP", "RGB", {}, "BMP"),
        ("TIFF", "RGB", {}, "TIFF"),
        ("PPM", "RGB", {}, "PPM"),
        ("GIF", "P", {}, "GIF"),
        ("JPEG", "CMYK", {}, "CMYK JPEG"),
    ],
)
@pytest.mark.parametrize("settings", [SETTINGS, RAW], ids=["jpg", "raw"])
def test_other_images_are_encoded(kind, mode, options, how, settings):
    image = picture(mode=mode)
    data = file_bytes(image, kind, **options)
    sample = encode(data, settings)
    assert sample.mode == settings.mode
    assert sample.how == (how if settings is SETTINGS else "raw pixels")
    reference = Image.open(io.BytesIO(data)).convert("RGB")
    # Few colours mean hard edges, which JPEG compresses badly.
    tolerance = 0 if settings is RAW else 8 if mode in ("P", "1") else 2
    assert mean_difference(sample, reference) <= tolerance


def test_alpha_is_dropped_as_torchvision_does():
    image = picture()
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    assert mean_difference(encode(file_bytes(image, "PNG"), RAW), picture()) == 0


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bit_gray_is_scaled(kind):
    values = np.arange(40 * 60, dtype=np.uint16).reshape(40, 60) * 27
    sample = encode(file_bytes(Image.fromarray(values), kind), RAW)
    assert np.array_equal(decoded(sample), np.repeat((values >> 8)[..., None], 3, axis=-1))


def test_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    data = file_bytes(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decoded(encode(data, RAW))[0, 0].tolist() == [255, 0, 0]


def test_name_does_not_matter(tmp_path):
    path = tmp_path / "actually_png.jpg"
    path.write_bytes(file_bytes(picture(), "PNG"))
    assert encode_item(ImageLocation(str(path)), SETTINGS).how == "PNG"


@pytest.mark.parametrize(("size", "expected"), [((60, 40), (30, 20)), ((7, 300), (1, 30))])
def test_longer_side_is_capped(size, expected):
    image = picture(size[1], size[0])
    settings = EncodeSettings(mode="raw", max_resolution=30)
    sample = encode(file_bytes(image, "PNG"), settings)
    assert (sample.width, sample.height) == expected
    assert sample.shrunk == "--max_resolution 30"
    resized = image.resize(expected, Image.Resampling.BICUBIC)
    assert np.array_equal(decoded(sample), np.asarray(resized))


def test_capped_jpeg_is_encoded_and_a_smaller_one_is_not():
    data = file_bytes(picture(40, 60))
    assert encode(data, EncodeSettings(max_resolution=60)).payload == data
    sample = encode(data, EncodeSettings(max_resolution=59))
    assert (sample.how, sample.width, sample.height) == ("too large", 59, 39)


@pytest.mark.parametrize("mode", ["jpg", "raw"])
def test_an_image_that_keeps_its_size_is_not_called_shrunk(mode):
    for kind in ("JPEG", "PNG"):
        settings = EncodeSettings(mode=mode, max_resolution=60)
        assert encode(file_bytes(picture(), kind), settings).shrunk == ""


def test_quality_has_an_effect():
    data = file_bytes(picture(200, 200), "PNG")
    low, high = (encode(data, EncodeSettings(jpeg_quality=q)).payload for q in (30, 95))
    assert len(low) < len(high)


@pytest.mark.parametrize("mode", ["jpg", "raw"])
def test_sample_is_shrunk_until_it_fits_a_page(mode):
    noise = np.random.default_rng(0).integers(0, 256, (200, 100, 3), dtype=np.uint8)
    data = file_bytes(Image.fromarray(noise), quality=95)
    sample = encode(data, EncodeSettings(mode=mode, page_size=8192))
    assert 4000 < len(sample.payload) <= 8192
    assert len(sample.payload) + len(sample.trailer) <= 8192
    assert sample.height / sample.width == pytest.approx(2, rel=0.05)
    assert sample.shrunk == "--page_size 8192"
    decoded(sample)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.85])
def test_truncated_file_is_skipped(kind, share):
    data = file_bytes(picture(mode="P" if kind == "GIF" else "RGB"), kind)
    with pytest.raises(SkipImage):
        encode(data[: int(len(data) * share)], SETTINGS)


@pytest.mark.parametrize(("height", "side"), [(4000, 4), (4000, 40)])
def test_the_trailer_has_room_beside_the_sample(height, side):
    """The index of a tall image alone could fill a page."""
    data = file_bytes(picture(height, side))
    sample = encode(data, EncodeSettings(page_size=4096))
    assert len(sample.payload) + largest_trailer(sample.height) <= 4096
    decoded(sample)


@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_whose_end_was_never_written_is_skipped(progressive):
    """Pillow decodes half a file followed by zeros without an error."""
    data = file_bytes(picture(150, 200), progressive=progressive, quality=95)
    for cut in (2, len(data) // 3, len(data) // 2):
        with pytest.raises(SkipImage):
            encode(data[:-cut] + bytes(cut), SETTINGS)


@needs_native
@pytest.mark.parametrize("progressive", [False, True])
def test_the_trailer_vouches_only_for_complete_decoding(progressive, monkeypatch):
    data = file_bytes(picture(), progressive=progressive)
    assert check_jpeg(data).components == 3
    monkeypatch.setattr(native_library, "load", lambda: None)
    assert check_jpeg(data).components == 0


def test_an_unsupported_format_under_a_wrong_name_is_named():
    """HEIC called .jpg, as phones and web sites export it."""
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(500)
    reason = r"^HEIC is not supported: convert it to JPEG or PNG first$"
    with pytest.raises(SkipImage, match=reason):
        encode(heic, EncodeSettings())


def test_other_bytes_are_skipped(tmp_path):
    for data in (b"text", b"\xff\xd8\xff", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"):
        with pytest.raises(SkipImage):
            encode(data, SETTINGS)


@pytest.mark.parametrize("make", [np.float32, np.int32])
def test_pixels_without_a_known_range_are_skipped(make):
    values = (np.arange(100).reshape(10, 10) * 1e6).astype(make)
    with pytest.raises(SkipImage, match="no known range"):
        encode(file_bytes(Image.fromarray(values), "TIFF"), SETTINGS)


def test_files_that_cannot_be_read_have_reasons(tmp_path):
    (tmp_path / "empty.jpg").touch()
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "short").write_bytes(b"12345")
    reasons = {
        ImageLocation(str(tmp_path / "empty.jpg")): "empty file",
        ImageLocation(str(tmp_path / "pipe.jpg")): "not a file",
        ImageLocation(str(tmp_path / "absent.jpg")): "no such file",
        ImageLocation(str(tmp_path / "short"), "member", 2, 10): "cut short: 3 of 10 bytes",
    }
    for item, reason in reasons.items():
        assert encode_item(item, SETTINGS) == reason


@pytest.fixture
def found(monkeypatch):
    """A function that fakes the native library's verdict on all JPEGs; returns those inspected."""

    def install(status, problem=None, rows=()):
        seen = []

        def inspect(data):
            seen.append(data)
            return Inspection(status, problem, np.array(list(rows), ROW_START))

        monkeypatch.setattr(native_library, "load", object)
        monkeypatch.setattr(native_library, "inspect_jpeg", inspect)
        return seen

    return install


ROWS = [(5000, (0, 0, 0, 0)), (6001, (3, -4, 5, 0))]


@pytest.mark.parametrize(
    ("kind", "mode", "settings", "components"),
    [
        ("JPEG", "RGB", SETTINGS, 3),
        ("JPEG", "L", SETTINGS, 1),
        ("JPEG", "L", REENCODE, 3),
        ("PNG", "RGB", SETTINGS, 3),
        ("JPEG", "CMYK", SETTINGS, 3),
        ("PNG", "RGB", RAW, 0),
    ],
)
def test_trailer_holds_checksum_and_rows_of_the_sample(found, kind, mode, settings, components):
    seen = found(OK, rows=ROWS)
    sample = encode(file_bytes(picture(mode=mode), kind), settings)
    trailer = read_trailer(sample.trailer)
    assert trailer.crc == zlib.crc32(sample.payload)
    assert trailer.components == components
    if settings is RAW:
        assert len(trailer.rows) == 0
    else:
        assert seen[-1] == sample.payload, "the rows of another file"
        assert trailer.rows.tobytes() == np.array(ROWS, ROW_START).tobytes()


def test_trailer_without_native_library_or_rows(found, monkeypatch):
    data = file_bytes(picture())
    found(UNSUPPORTED, "neither gray nor RGB")
    unsupported = encode(data, SETTINGS)
    monkeypatch.setattr(native_library, "load", lambda: None)
    unknown = encode(data, SETTINGS)
    for sample in (unsupported, unknown):
        trailer = read_trailer(sample.trailer)
        assert (trailer.crc, trailer.components, len(trailer.rows)) == (zlib.crc32(data), 0, 0)
        assert sample.how == PASSED_THROUGH


@pytest.mark.parametrize(
    "settings", [SETTINGS, RAW, REENCODE, EncodeSettings(max_resolution=20)], ids=repr
)
def test_damaged_jpeg_is_skipped_whatever_the_settings(found, settings):
    found(DAMAGED, "Corrupt JPEG data: premature end of data segment")
    with pytest.raises(SkipImage, match=r"^damaged JPEG: premature end of data segment$"):
        encode(file_bytes(picture()), settings)


@needs_native
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
@pytest.mark.parametrize("settings", [SETTINGS, REENCODE], ids=["pass", "reencode"])
def test_jpeg_cut_before_an_end_marker_is_skipped(options, settings):
    """Pillow decodes it without an error."""
    data = file_bytes(picture(150, 200), quality=95, **options)
    encode(data, settings)
    cut = data[: len(data) * 2 // 3] + b"\xff\xd9"
    Image.open(io.BytesIO(cut)).load()
    with pytest.raises(SkipImage, match=r"^damaged JPEG: "):
        encode(cut, settings)


@pytest.mark.skipif(
    native_library.load() is None or not native_library.load().own_entropy(),
    reason="the native library is not built, or has no Huffman decoder of its own",
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_native_rows_fit_the_room_kept_for_them(mode, subsampling):
    data = file_bytes(picture(333, 77, mode), subsampling=subsampling)
    trailer = encode(data, SETTINGS).trailer
    assert len(trailer) <= largest_trailer(333)
    mcu = 16 if mode == "RGB" and subsampling == 2 else 8
    assert len(read_trailer(trailer).rows) == -(-333 // mcu)


def test_reencode_encodes_what_would_be_passed_through():
    data = file_bytes(picture(200, 200), quality=100, subsampling=0, comment=b"x" * 99)
    sample = encode(data, REENCODE)
    assert (sample.how, sample.height, sample.width) == ("--reencode", 200, 200)
    assert len(sample.payload) < len(data)
    assert mean_difference(sample, picture(200, 200)) < 2
    assert encode(file_bytes(picture(), "PNG"), REENCODE).how == "PNG"
    small = EncodeSettings(reencode=True, max_resolution=100)
    assert encode(data, small).how == "too large"
    low = EncodeSettings(reencode=True, jpeg_quality=30)
    assert len(encode(data, low).payload) < len(sample.payload)


def test_encoded_colour_is_subsampled_as_pillow_does_by_default():
    payload = encode(file_bytes(picture(), "PNG"), SETTINGS).payload
    frame = payload.index(b"\xff\xc0")
    sampling = payload[frame + 11 : frame + 20 : 3]
    assert sampling == bytes([0x22, 0x11, 0x11]), "not 4:2:0"
