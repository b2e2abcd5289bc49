"""The engine's resampling equals Pillow's bicubic, bit for bit, with every instruction set."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from fastimae.loaders import native_library
from fastimae.loaders.native_library import SIMD, address

library = native_library.load()
pytestmark = pytest.mark.skipif(library is None, reason=native_library.why_missing())

PATTERNS = ("noise", "black and white", "checkerboard", "stripes", "white")
"""At hard edges the filter overshoots, and values must be clipped."""


@pytest.fixture(params=["plain", "avx2", "avx512vnni"])
def simd(request):
    try:
        library.resize(np.zeros((1, 1, 3), np.uint8), (1, 1), simd=request.param)
    except ValueError as lacking:
        pytest.skip(str(lacking))
    return request.param


def picture(rng, height, width, channels, pattern="noise"):
    """Make an image, uint8 [height, width, channels]."""
    shape = (height, width, channels)
    y, x = np.mgrid[:height, :width]
    period = rng.integers(1, 6)
    if pattern == "white":
        return np.full(shape, 255, np.uint8)
    if pattern == "black and white":
        return (rng.integers(0, 2, shape) * 255).astype(np.uint8)
    if pattern == "checkerboard":
        return np.repeat(((x // period + y // period) % 2 * 255)[..., None], channels, 2).astype(
            "u1"
        )
    if pattern == "stripes":
        return (((x + y)[..., None] // period + np.arange(channels)) % 2 * 255).astype(np.uint8)
    return rng.integers(0, 256, shape, dtype=np.uint8)


def by_pillow(pixels, size, channels, flip=False):
    """Resize with Pillow to uint8 [*size, channels]."""
    image = Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[..., 0])
    resized = np.asarray(image.resize(size[::-1], Image.Resampling.BICUBIC)).reshape(*size, -1)
    if channels > resized.shape[2]:
        resized = np.repeat(resized, channels, axis=2)
    return resized[:, ::-1] if flip else resized


def check(pixels, size, channels, simd, flip=False):
    resized = library.resize(pixels, size, channels=channels, flip=flip, simd=simd)
    np.testing.assert_array_equal(resized, by_pillow(pixels, size, channels, flip))


@pytest.mark.parametrize("channels", [(3, 3), (1, 1), (1, 3)], ids=["RGB", "gray", "gray to RGB"])
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    inside=st.tuples(st.integers(1, 640), st.integers(1, 640)),
    size=st.tuples(st.integers(1, 448), st.integers(1, 448)) | st.just((224, 224)),
    pattern=st.sampled_from(PATTERNS),
    flip=st.booleans(),
    seed=st.integers(0, 999),
)
def test_any_size(simd, channels, inside, size, pattern, flip, seed):
    pixels = picture(np.random.default_rng(seed), *inside, channels[0], pattern)
    check(pixels, size, channels[1], simd, flip)


@pytest.mark.parametrize(("channels", "flip"), [(1, False), (3, True)])
@pytest.mark.parametrize(
    ("inside", "size"),
    [
        ((1, 1), (1, 1)),
        ((1, 1), (64, 33)),
        ((1, 777), (48, 32)),
        ((777, 1), (32, 48)),
        ((3, 2), (224, 224)),
        ((300, 400), (1, 1)),
        ((224, 224), (224, 224)),
        ((224, 300), (224, 224)),
        ((300, 224), (224, 224)),
        ((40, 9000), (32, 40)),
        ((9000, 40), (40, 32)),
        ((1200, 1600), (32, 32)),
        ((700, 880), (448, 320)),
    ],
)
def test_extreme_sizes(simd, inside, size, channels, flip):
    pixels = picture(np.random.default_rng(0), *inside, channels, "black and white")
    check(pixels, size, channels, simd, flip)


@pytest.mark.parametrize("size", [(224, 224), (96, 160)])
@pytest.mark.parametrize("columns", [-30, -1, 0, 1, 40])
@pytest.mark.parametrize("rows", [-1, 0, 1])
def test_the_order_of_the_passes(simd, size, columns, rows):
    """Pillow starts with the vertical pass if that removes over twice as many rows as columns."""
    inside = max(1, size[0] + 2 * columns + rows), size[1] + columns
    check(picture(np.random.default_rng(1), *inside, 3, "black and white"), size, 3, simd)


def test_the_order_makes_a_difference(simd):
    """Otherwise the test above could not fail.

    Pillow starts with the horizontal pass here, on the transposed image, too.
    """
    pixels = picture(np.random.default_rng(1), 264, 264, 3, "black and white")
    turned = np.ascontiguousarray(pixels.swapaxes(0, 1))
    other_order = by_pillow(turned, (224, 224), 3).swapaxes(0, 1)
    assert (library.resize(pixels, (224, 224), simd=simd) != other_order).any()


@pytest.mark.parametrize("pattern", PATTERNS)
def test_values_are_clipped(simd, pattern):
    pixels = picture(np.random.default_rng(2), 90, 120, 3, pattern)
    for size in [(224, 224), (61, 77), (90, 32)]:
        check(pixels, size, 3, simd)


@pytest.mark.parametrize(
    "inside", [(90, 120), (500, 120)], ids=["horizontal first", "vertical first"]
)
@pytest.mark.parametrize("size", [(32, 32), (33, 37), (1, 1), (50, 21)])
@pytest.mark.parametrize("channels", [1, 3])
def test_nothing_around_the_output_is_written(simd, inside, size, channels):
    pixels = picture(np.random.default_rng(3), *inside, channels)
    margin, inner = 256, size[0] * size[1] * channels
    memory = np.full(inner + 2 * margin, 0xA5, np.uint8)
    out = memory[margin:-margin]
    arguments = (*inside, channels, address(out), *size, channels, False, SIMD[simd])
    assert library._resize(address(pixels), *arguments) == 0
    expected = np.full_like(memory, 0xA5)
    expected[margin:-margin] = by_pillow(pixels, size, channels).ravel()
    np.testing.assert_array_equal(memory, expected)
