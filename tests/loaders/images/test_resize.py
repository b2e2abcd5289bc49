"""Our resize is that of Pillow 13, and of the engine, with every Pillow."""

import numpy as np
import older_pillow
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from fastimae.loaders import native_library
from fastimae.loaders.images.resize import resize

sides = st.tuples(st.integers(1, 300), st.integers(1, 300))


def noise(width, height, channels):
    """Make an image, uint8 [height, width, channels]."""
    return np.random.default_rng(width).integers(0, 256, (height, width, channels), dtype=np.uint8)


def resized(pixels, size):
    image = Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[..., 0])
    return np.asarray(resize(image, size)).reshape(*size[::-1], -1)


@pytest.mark.skipif(older_pillow.IS_OLDER, reason="13 is what we compare with")
@settings(max_examples=60)
@given(before=sides, after=sides, channels=st.sampled_from([1, 3]))
@example(before=(64, 300), after=(64, 64), channels=3)
@example(before=(100, 101), after=(64, 64), channels=3)
def test_resize_equals_one_call_of_pillow_13(before, after, channels):
    pixels = noise(*before, channels)
    image = Image.fromarray(pixels if channels == 3 else pixels[..., 0])
    expected = np.asarray(image.resize(after, Image.Resampling.BICUBIC)).reshape(*after[::-1], -1)
    assert np.array_equal(resized(pixels, after), expected)


@pytest.mark.skipif(native_library.load() is None, reason=native_library.why_missing())
@settings(max_examples=60)
@given(before=sides, after=sides, channels=st.sampled_from([1, 3]))
@example(before=(64, 300), after=(64, 64), channels=3)
def test_resize_equals_the_engine_with_every_pillow(before, after, channels):
    pixels = noise(*before, channels)
    engine = native_library.load().resize(pixels, after[::-1], channels=channels)
    assert np.array_equal(resized(pixels, after), engine)


def test_the_order_of_the_passes_matters():
    image = Image.fromarray(noise(64, 300, 3))
    other = image.resize((48, 300), Image.Resampling.BICUBIC).resize((48, 48), 3)
    away = np.abs(np.asarray(resize(image, (48, 48)), int) - np.asarray(other))
    assert 0 < away.max() <= 26
