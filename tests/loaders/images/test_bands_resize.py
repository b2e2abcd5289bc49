"""Resizing of many channels and 16 bits: by definition in float64, and the same in the engine."""

import numpy as np
import pytest
from bands import FORMS, exact_resize
from PIL import Image

from fastimae.loaders import native_library
from fastimae.loaders.image_location import SkipImage
from fastimae.loaders.images.bands import BandImage
from fastimae.loaders.images.pixel_form import PixelForm
from fastimae.loaders.images.resize import resize

library = native_library.load()
built = pytest.mark.skipif(library is None, reason=native_library.why_missing())

SIZES = [((61, 45), (24, 32)), ((20, 33), (41, 40)), ((150, 20), (24, 24)), ((9, 9), (9, 9))]
"""Smaller, larger, much less high (the vertical pass is first), and the same."""


def noise(form, inside, seed=3):
    most = np.iinfo(form.dtype).max + 1
    values = np.random.default_rng(seed).integers(0, most, (*inside, form.channels))
    return values.astype(form.dtype)


@pytest.mark.parametrize(("inside", "size"), SIZES)
@pytest.mark.parametrize("channels", [1, 3, 13])
def test_16_bits_are_the_definition_rounded_once(channels, inside, size):
    pixels = noise(PixelForm(channels, np.dtype("u2")), inside)
    resized = BandImage(pixels).resize(size[::-1]).pixels_HWC
    exact = exact_resize(pixels, size).clip(0, 65535)
    assert resized.dtype == np.uint16
    assert np.abs(resized - exact).max() <= 0.5 + 0.02  # fp32 between the passes


@pytest.mark.parametrize("inside", [(61, 45), (20, 33)])
def test_8_bits_are_the_definition_to_both_roundings(inside):
    pixels = noise(PixelForm(5, np.dtype("u1")), inside) // 4 + 96  # never clipped between passes
    resized = BandImage(pixels).resize((32, 24)).pixels_HWC
    assert np.abs(resized - exact_resize(pixels, (24, 32))).max() < 1.7


def test_8_bits_are_those_of_an_rgb_image():
    pixels = noise(PixelForm(3, np.dtype("u1")), (61, 45))
    as_rgb = np.asarray(resize(Image.fromarray(pixels), (32, 24)))
    assert np.array_equal(BandImage(pixels).resize((32, 24)).pixels_HWC, as_rgb)


@built
@pytest.mark.parametrize(("inside", "size"), SIZES)
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_engine_has_the_same_pixels(form, inside, size):
    pixels = noise(form, inside)
    resized = BandImage(pixels).resize(size[::-1]).pixels_HWC
    assert np.array_equal(library.resize_bands(pixels, size), resized)
    assert np.array_equal(library.resize_bands(pixels, size, flip=True), resized[:, ::-1])


@built
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_extremes_are_clipped(form):
    most = np.iinfo(form.dtype).max
    pixels = np.zeros((20, 20, form.channels), form.dtype)
    pixels[6:14, 6:14] = most
    resized = library.resize_bands(pixels, (50, 50))
    assert np.array_equal(resized, BandImage(pixels).resize((50, 50)).pixels_HWC)
    overshoot = exact_resize(pixels, (50, 50))
    assert overshoot.max() > most * 1.01
    assert (resized[overshoot > most] == most).all()


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (np.zeros((4, 4, 3), np.float32), "float32 values: only uint8 and uint16"),
        (np.zeros((4, 4, 3), np.int16), "int16 values"),
        (np.zeros((0, 4, 3), np.uint8), "0 x 4 pixels"),
        (np.zeros((4, 4, 2000), np.uint8), "2000 channels"),
    ],
)
def test_what_is_no_image(pixels, reason):
    with pytest.raises(SkipImage, match=reason):
        BandImage(pixels)
