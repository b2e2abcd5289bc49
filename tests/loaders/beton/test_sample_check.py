"""The rule for damaged samples: checksums, trailers that vouch, and the native library."""

import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from older_beton import older_trailer
from PIL import Image

from fastimae.loaders import native_library
from fastimae.loaders.beton import reader as beton
from fastimae.loaders.beton.image import open_sample
from fastimae.loaders.beton.reader import BetonReader, BetonWriter
from fastimae.loaders.beton.sample_check import find_problem
from fastimae.loaders.beton.trailer import make_trailer
from fastimae.loaders.image_location import SkipImage

_image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
_file = io.BytesIO()
_image.save(_file, "JPEG")
WHOLE = _file.getvalue()
CUT = WHOLE[: len(WHOLE) * 2 // 3] + b"\xff\xd9"
"""Pillow opens it without an error, with its last rows gray."""
NONE, OTHERS = "it has no checksum", "the checksum differs"
KINDS = [make_trailer, older_trailer]

needs_library = pytest.mark.skipif(
    native_library.load() is None, reason=native_library.why_missing()
)


@pytest.fixture
def no_library(monkeypatch):
    monkeypatch.setattr(native_library, "load", lambda: None)


def found(payload, trailer, *, is_jpeg=True, has_trailers=True):
    return find_problem(payload, trailer, is_jpeg=is_jpeg, has_trailers=has_trailers)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_jpeg", [True, False])
def test_checksum(kind, is_jpeg):
    assert found(WHOLE, kind(WHOLE, None, 3), is_jpeg=is_jpeg) is None
    assert OTHERS in found(WHOLE, kind(CUT, None, 3), is_jpeg=is_jpeg)
    assert NONE in found(WHOLE, b"", is_jpeg=is_jpeg)
    assert found(WHOLE, b"", is_jpeg=is_jpeg, has_trailers=False) is None
    for lost in (kind(WHOLE)[:-1], kind(WHOLE)[1:], bytes(20), b"\0" + kind(WHOLE)[1:]):
        assert "trailer" in found(WHOLE, lost, is_jpeg=is_jpeg)


@needs_library
@pytest.mark.parametrize("kind", KINDS)
def test_the_library_checks_jpegs_that_no_trailer_vouches_for(kind):
    assert "premature end" in found(CUT, kind(CUT))
    assert "premature end" in found(CUT, b"", has_trailers=False)
    assert found(CUT, kind(CUT, None, 3)) is None
    assert found(CUT, kind(CUT), is_jpeg=False) is None
    assert found(WHOLE, kind(WHOLE)) is None


@needs_library
def test_unsupported_files_are_left_to_pillow():
    file = io.BytesIO()
    _image.convert("CMYK").save(file, "JPEG")
    data = file.getvalue()
    assert native_library.inspect_jpeg(data).status == native_library.UNSUPPORTED
    assert found(data, b"", has_trailers=False) is None


@pytest.mark.usefixtures("no_library")
def test_without_the_library_checksums_are_compared(tmp_path):
    assert found(CUT, make_trailer(CUT)) is None
    assert OTHERS in found(CUT, make_trailer(WHOLE))
    with BetonWriter(tmp_path / "a.beton", page_size=1 << 14) as writer:
        for data, trailer in ((WHOLE, None), (CUT, None), (CUT, make_trailer(WHOLE))):
            writer.append(data, height=40, width=60, trailer=trailer)
    with BetonReader(tmp_path / "a.beton") as reader:
        for index, data in enumerate((WHOLE, CUT)):
            expected = np.asarray(Image.open(io.BytesIO(data)))
            assert np.array_equal(np.asarray(open_sample(reader, index)), expected)
        with pytest.raises(SkipImage, match=OTHERS):
            open_sample(reader, 2)


def test_each_sample_is_checked_once(tmp_path, monkeypatch):
    """Except by threads that ask at the same time, which get the same answer."""
    with BetonWriter(tmp_path / "a.beton", page_size=1 << 14) as writer:
        for index in range(20):
            other = make_trailer(b"other") if index % 3 == 0 else None
            writer.append(WHOLE, height=40, width=60, trailer=other)
    judged = []

    def count(*arguments, **settings):
        judged.append(1)
        return find_problem(*arguments, **settings)

    monkeypatch.setattr(beton, "find_problem", count)
    order = np.random.default_rng(0).permutation(np.repeat(np.arange(20), 20))
    with BetonReader(tmp_path / "a.beton") as reader, ThreadPoolExecutor(4) as pool:
        told = list(pool.map(reader.problem, order))
        assert [problem is None for problem in told] == (order % 3 > 0).tolist()
        before = len(judged)
        assert 20 <= before <= 80
        assert [reader.problem(i) is None for i in range(20)] == [i % 3 > 0 for i in range(20)]
        assert len(judged) == before
