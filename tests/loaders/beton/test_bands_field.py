"""A .beton file says what its pixels are; other readers refuse it, and damage is noticed."""

import struct

import numpy as np
import pytest
from back_ends import INSTALLED
from bands import make_images, write_beton
from quick_ffcv import import_ffcv

from fastimae.loaders import BetonReader, BetonWriter, DataError
from fastimae.loaders.beton.layout import DESCRIPTOR, HEADER
from fastimae.loaders.images.pixel_form import RGB8, PixelForm

FORM = PixelForm(5, np.dtype("u2"))
ARGUMENTS_AT = HEADER.itemsize + DESCRIPTOR.fields["arguments"][1]


@pytest.fixture
def beton(tmp_path):
    return write_beton(tmp_path / "x.beton", make_images(FORM, 3), FORM, labels=[1, 0, 1])


def test_form_and_table_are_read(beton):
    with BetonReader(beton) as reader:
        assert (reader.form, reader.kind) == (FORM, ".beton file of 5 x uint16 pixels")
        assert (reader.labels.tolist(), reader.has_record) == ([1, 0, 1], True)
        assert not reader.is_jpeg.any()
        assert [reader.problem(i) for i in range(3)] == [None] * 3


def test_names_are_kept(tmp_path):
    path = tmp_path / "x.beton"
    with BetonWriter(path, form=FORM, class_names=["a", "b"]) as writer:
        writer.append(bytes(4 * 4 * 10), mode="raw", height=4, width=4, label=1)
    assert BetonReader(path).class_names == ["a", "b"]


@pytest.mark.parametrize(
    ("at", "code", "value"),
    [(32, "<I", 0), (36, "<H", 6), (36, "<H", 0), (38, "<H", 1), (38, "<H", 3), (0, "<I", 0)],
)
def test_a_changed_form_is_an_error(beton, at, code, value):
    data = bytearray(beton.read_bytes())
    struct.pack_into(code, data, ARGUMENTS_AT + at, value)
    beton.write_bytes(data)
    with pytest.raises(DataError, match=r"damaged|custom type"):
        BetonReader(beton)


def test_writer_refuses_what_does_not_fit(tmp_path):
    with BetonWriter(tmp_path / "x.beton", form=FORM) as writer:
        with pytest.raises(ValueError, match="a JPEG cannot hold pixels of 5 x uint16"):
            writer.append(b"x", height=4, width=4)
        with pytest.raises(ValueError, match="4 x 4 raw pixels are not 48 bytes"):
            writer.append(bytes(48), mode="raw", height=4, width=4)
        writer.append(bytes(160), mode="raw", height=4, width=4)


def test_ordinary_files_have_no_form(tmp_path):
    path = write_beton(tmp_path / "x.beton", make_images(RGB8, 2), RGB8)
    data = path.read_bytes()
    assert data[HEADER.itemsize] == 2  # ffcv's image field
    assert not any(data[ARGUMENTS_AT + 32 : ARGUMENTS_AT + 1024])


@pytest.mark.ffcv
@pytest.mark.skipif("ffcv" not in INSTALLED, reason="the ffcv library is not installed")
def test_ffcv_refuses_the_file(beton):
    import_ffcv()
    from ffcv.reader import Reader

    with pytest.raises(Exception, match="custom_field"):
        Reader(str(beton))
