"""Samples as Pillow images, full or cropped: the same pixels and errors as from Pillow."""

import random

import jpeg_kinds
import jpeg_writer
import numpy as np
import odd_jpegs
import pytest
from PIL import Image

from fastimae.loaders import BetonReader, BetonWriter, native_library
from fastimae.loaders.beton import native_image
from fastimae.loaders.beton.image import open_sample
from fastimae.loaders.beton.native_image import NativeImage
from fastimae.loaders.beton.trailer import make_trailer
from fastimae.loaders.image_location import SkipImage
from fastimae.loaders.images.decode import reason_for
from fastimae.loaders.images.jpeg import read_jpeg_info
from fastimae.loaders.images.limits import limited_to
from fastimae.loaders.images.pixels import eight_bits

HEIGHT, WIDTH = odd_jpegs.HEIGHT, odd_jpegs.WIDTH
pytestmark = pytest.mark.skipif(native_library.load() is None, reason=native_library.why_missing())


def save(path, payloads, trailers=make_trailer):
    """Save a file of JPEGs and of uint8 arrays, [height, width, 3]."""
    with BetonWriter(path) as writer:
        for data in payloads:
            if isinstance(data, np.ndarray):
                (height, width, _), data, mode = data.shape, data.tobytes(), "raw"
            else:
                info, mode = read_jpeg_info(data), "jpg"
                height, width = (info.height, info.width) if info else (HEIGHT, WIDTH)
            trailer = trailers(data)
            writer.append(data, height=height, width=width, mode=mode, trailer=trailer)
    return path


def vouched(data):
    """Make a trailer as the converter does: with the starts of rows, if there is no damage."""
    found = native_library.inspect_jpeg(data)
    good = found.status == native_library.OK
    return make_trailer(data, found.rows, read_jpeg_info(data).channels if good else 0)


def shown(show, *arguments):
    """Return the pixels, or why there are none."""
    try:
        return np.asarray(show(*arguments))
    except Exception as error:
        return reason_for(error)


def by_pillow(reader, index, mode, box):
    return eight_bits(open_sample(reader, index), mode, box)


def by_engine(reader, index, mode, box):
    image = NativeImage(reader, index).to(mode)
    return image.crop(box) if box else image


def assert_as_pillow(path, seed=0):
    """Compare each sample, in full and in a window, with Pillow; return the number of bad ones."""
    rng, bad = random.Random(seed), 0
    with BetonReader(path) as reader:
        for index in range(len(reader)):
            right, bottom = int(reader.widths[index]), int(reader.heights[index])
            left, top = rng.randrange(right), rng.randrange(bottom)
            part = left, top, rng.randint(left + 1, right), rng.randint(top + 1, bottom)
            for mode in ("RGB", "L"):
                for box in (None, part):
                    expected = shown(by_pillow, reader, index, mode, box)
                    found = shown(by_engine, reader, index, mode, box)
                    np.testing.assert_array_equal(found, expected)
            bad += isinstance(expected, str)
    return bad


@pytest.mark.parametrize("kind", jpeg_kinds.KINDS)
@pytest.mark.parametrize(
    "trailers", [make_trailer, vouched, lambda _: b""], ids=["checksums", "vouched", "none"]
)
def test_all_kinds_of_jpeg_and_damage_to_them(tmp_path, kind, trailers):
    rng = random.Random(kind)
    sound = [jpeg_writer.write(jpeg_kinds.draw(rng, kind)) for _ in range(3)]
    payloads = sound + [jpeg_kinds.damage(rng, data) for data in sound]
    assert_as_pillow(save(tmp_path / "a.beton", payloads, trailers))


def test_tags_raw_samples_gray_and_wrong_bytes(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    gray = odd_jpegs.picture().convert("L")
    payloads = [odd_jpegs.jpeg(exif=exif), np.asarray(odd_jpegs.picture()), odd_jpegs.jpeg(gray)]
    path = save(tmp_path / "a.beton", [*payloads, *payloads])
    with BetonReader(path) as reader:
        places = [reader.region(index)[0] for index in (3, 4)]
    data = bytearray(path.read_bytes())
    for place in places:
        data[place + 200] ^= 1
    path.write_bytes(data)
    assert assert_as_pillow(path) == 2
    with limited_to(HEIGHT * WIDTH - 1):
        assert assert_as_pillow(path) == 6


def test_a_size_that_the_file_does_not_have(tmp_path):
    with BetonWriter(tmp_path / "a.beton") as writer:
        data = odd_jpegs.jpeg()
        writer.append(data, height=HEIGHT + 1, width=WIDTH, trailer=make_trailer(data))
    assert assert_as_pillow(tmp_path / "a.beton") == 1


def test_pillow_decodes_windows_that_are_not_inside(tmp_path):
    with BetonReader(save(tmp_path / "a.beton", [odd_jpegs.jpeg()])) as reader:
        whole = open_sample(reader, 0)
        for box in ((-3, -2, 9, 9), (60, 40, 80, 60), (3, 3, 3, 9)):
            part = NativeImage(reader, 0).crop(box)
            assert part.size == whole.crop(box).size
            assert part.tobytes() == whole.crop(box).tobytes()


def test_the_engine_decodes_only_the_window_of_a_crop(tmp_path, monkeypatch):
    asked = []
    real = native_image._decoded
    monkeypatch.setattr(native_image, "eight_bits", None)
    monkeypatch.setattr(native_image, "_decoded", lambda *a: asked.append(a[2]) or real(*a))
    with BetonReader(save(tmp_path / "a.beton", [odd_jpegs.jpeg()])) as reader:
        image = NativeImage(reader, 0)
        assert image.size == (WIDTH, HEIGHT) and not asked
        image.crop((5, 6, 30, 40))
        image.resize((9, 9))
        image.crop((1, 1, 2, 2))
        assert asked == [(5, 6, 30, 40), (0, 0, WIDTH, HEIGHT)]


def test_errors_are_those_of_a_skipped_image(tmp_path):
    path = save(tmp_path / "a.beton", [odd_jpegs.jpeg()[:-30]])
    with BetonReader(path) as reader, pytest.raises(SkipImage):
        NativeImage(reader, 0)
