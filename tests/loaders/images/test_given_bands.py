"""Arrays of many channels from user code: which axis is the channels, and which are PIL images."""

import numpy as np
import pytest
from PIL import Image

from fastimae.loaders.images.given_images import NotAnImage, as_image


@pytest.mark.parametrize(
    ("shape", "channels", "found"),
    [
        ((20, 30, 6), 6, (20, 30, 6)),
        ((6, 20, 30), 6, (20, 30, 6)),
        ((6, 20, 30), None, (20, 30, 6)),
        ((20, 30, 6), 3, (20, 30, 6)),
        ((30, 20, 40), 30, (20, 40, 30)),
        ((4, 20, 30), None, (20, 30, 4)),
        ((20, 30, 4), 4, (20, 30, 4)),
    ],
)
def test_axis_of_channels(shape, channels, found):
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    image = as_image(pixels, channels)
    assert image.pixels_HWC.shape == found
    assert np.array_equal(np.sort(image.pixels_HWC.reshape(-1)), np.sort(pixels.reshape(-1)))


@pytest.mark.parametrize(
    ("shape", "channels", "mode"),
    [((20, 30, 3), None, "RGB"), ((3, 20, 30), 3, "RGB"), ((20, 30), None, "L"),
     ((20, 30, 1), 1, "L"), ((20, 30, 4), 3, "RGBA")],
)  # fmt: skip
def test_8_bits_of_1_and_3_channels_are_ordinary(shape, channels, mode):
    image = as_image(np.zeros(shape, np.uint8), channels)
    assert isinstance(image, Image.Image)
    assert (image.mode, image.size) == (mode, (30, 20))
    assert as_image(np.zeros(shape, np.uint16), channels).form.dtype == np.uint16


@pytest.mark.parametrize(
    ("shape", "channels", "message"),
    [
        ((6, 20, 6), 6, "either axis of 6"),
        ((20, 30, 20), None, "either axis of 20"),
        ((20, 30, 5), 6, "no axis of 6 channels"),
        ((20, 30, 5, 1), 5, "has not the shape"),
    ],
)
def test_unclear_axes_are_errors(shape, channels, message):
    with pytest.raises(NotAnImage, match=message):
        as_image(np.zeros(shape, np.uint8), channels)
