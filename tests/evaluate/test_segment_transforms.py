"""Views of scenes: a function of (seed, epoch, sample); image and mask stay together."""

import colorsys
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from shape_scenes import make_scene

from fastimae.evaluate.segmentation import colours, transforms
from fastimae.evaluate.segmentation.transforms import Normalise, SegmentTransform, whole_view

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
PLAIN = {"mean": MEAN, "std": STD, "seed": 3}
STILL = {"scale": (1.0, 1.0), "flip": 0.0, "jitter": False}


def scene(size=(48, 80), seed=5):
    made = make_scene(seed, size)
    return made.image, made.mask


def shown(view):
    """Return the pixels of a view, in 0..255."""
    values = view.transpose(1, 2, 0) * np.array(STD) + np.array(MEAN)
    return values * 255


def test_a_view_is_a_function_of_seed_epoch_and_sample():
    image, mask = scene()
    make, again = (SegmentTransform((32, 40), **PLAIN) for _ in range(2))
    views = {}
    for key in ((0, 0), (0, 1), (1, 0)):
        views[key] = make(image, mask, *key)
    for key in reversed(views):
        for one, other in zip(views[key], again(image, mask, *key), strict=True):
            np.testing.assert_array_equal(one, other)
    first, second, third = (view for view, _ in views.values())
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, third)
    other = SegmentTransform((32, 40), **PLAIN | {"seed": 4})(image, mask, 0, 0)[0]
    assert not np.array_equal(first, other)


def test_views_do_not_touch_the_global_generators():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    SegmentTransform((32, 32), **PLAIN)(*scene(), 0, 0)
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002


def test_the_view_at_scale_one_is_the_normalised_image():
    image, mask = scene((40, 40))
    view, labels = SegmentTransform((40, 40), **PLAIN, **STILL)(image, mask, 0, 0)
    expected = (np.asarray(image) / 255 - MEAN) / STD
    np.testing.assert_allclose(view, expected.transpose(2, 0, 1), atol=1e-5)
    np.testing.assert_array_equal(labels, mask)
    assert (view.dtype, labels.dtype) == (np.float32, np.uint8)
    assert view.flags.c_contiguous


@pytest.mark.parametrize("flip", [0.0, 1.0])
@pytest.mark.parametrize("factor", [0.5, 1.0, 1.7])
def test_image_and_mask_stay_together(factor, flip):
    """The image is painted by its mask: its view must be painted by the mask's view."""
    _, mask = scene((60, 90), seed=20)
    image = Image.fromarray(np.repeat(mask[..., None] * 80, 3, 2))
    make = SegmentTransform(
        (48, 48), (factor, factor), **PLAIN, short_side=60, flip=flip, jitter=False
    )
    for index in range(8):
        view, labels = make(image, mask, 0, index)
        height, width = (min(48, round(side * factor)) for side in mask.shape)
        painted = shown(view)[:height, :width, 0] / 80
        agree = np.abs(painted - labels[:height, :width]) < 0.5
        assert agree.mean() > 0.95  # all but pixels at the edges of shapes


def test_a_flip_mirrors_both():
    image, mask = scene((40, 40))
    view, labels = SegmentTransform((40, 40), **PLAIN, **STILL | {"flip": 1.0})(image, mask, 0, 0)
    mirrored = np.asarray(ImageOps.mirror(image))
    np.testing.assert_allclose(shown(view), mirrored, atol=1e-3)
    np.testing.assert_array_equal(labels, mask[:, ::-1])


def test_half_of_the_views_are_mirrored():
    image, mask = scene((40, 40))
    make = SegmentTransform((40, 40), **PLAIN, **STILL | {"flip": 0.5})
    mirrored = [np.array_equal(make(image, mask, 0, n)[1], mask[:, ::-1]) for n in range(100)]
    assert 30 < sum(mirrored) < 70


def test_a_small_image_is_padded_with_the_mean_and_ignored():
    image, mask = scene((32, 40))
    make = SegmentTransform((64, 48), (0.5, 0.5), **PLAIN, short_side=64, jitter=False)
    view, labels = make(image, mask, 0, 0)
    assert (view[:, 32:] == 0).all()
    assert (view[:, :, 40:] == 0).all()
    assert (labels[32:] == 255).all()
    assert (labels[:, 40:] == 255).all()
    assert (labels[:32, :40] != 255).all()
    assert (view[:, :32, :40] != 0).mean() > 0.9


def test_scales_are_in_their_range_and_relative_to_the_crop():
    """A scene of one column more than the crop: the padding tells the scale."""
    mask = np.zeros((30, 90), np.uint8)
    make = SegmentTransform((60, 60), (0.5, 0.9), **PLAIN)
    heights = [
        (make(Image.new("RGB", (90, 30)), mask, 0, n)[1] != 255).any(1).sum() for n in range(60)
    ]
    assert min(heights) in range(30, 34)
    assert max(heights) in range(51, 55)


def test_no_class_fills_more_than_three_quarters_where_that_can_be():
    mask = np.zeros((64, 256), np.uint8)
    mask[:, :40] = 1  # few crops have both classes
    image = Image.new("RGB", (256, 64))
    shares = {}
    for most in (0.75, 1.0):
        make = SegmentTransform((64, 64), **PLAIN, **STILL, most=most)
        found = [transforms.largest_share(make(image, mask, 0, n)[1]) for n in range(60)]
        shares[most] = sum(share <= 0.75 for share in found)
    assert shares[0.75] > 2 * shares[1.0] > 0


def test_the_largest_share_is_of_pixels_that_count():
    assert transforms.largest_share(np.array([[255, 255], [3, 4]], np.uint8)) == 0.5
    assert transforms.largest_share(np.full((2, 2), 255, np.uint8)) == 1.0


@settings(max_examples=30)
@given(
    st.tuples(st.integers(20, 60), st.integers(20, 60)),
    st.tuples(st.integers(10, 90), st.integers(10, 90)),
    st.integers(0, 1 << 30),
)
def test_a_cut_is_the_window_of_the_resized_whole(size, scaled, seed):
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(30, 226, (8, 9, 3), dtype=np.uint8))
    image = coarse.resize(size[::-1], Image.Resampling.BICUBIC)
    top, left = (int(rng.integers(side)) for side in scaled)
    height, width = 1 + rng.integers(scaled[0] - top), 1 + rng.integers(scaled[1] - left)
    whole = np.asarray(image.resize(scaled[::-1], Image.Resampling.BICUBIC)).astype(int)
    found = np.asarray(transforms.cut(image, scaled, (top, left, int(height), int(width))))
    expected = whole[top : top + height, left : left + width]
    np.testing.assert_allclose(found, expected, atol=3)  # rounded twice, in either order


def test_a_mask_is_resized_to_the_nearest_pixel():
    rng = np.random.default_rng(0)
    for before, after in ((7, 7), (12, 5), (5, 12), (20, 15), (9, 31)):
        mask = rng.integers(0, 9, (before, 8), dtype=np.uint8)
        found = transforms.nearest(mask, (after, 8), (1, 2, after - 1, 6))
        for row in range(1, after):
            center = Fraction(2 * row + 1, 2) * before / after
            np.testing.assert_array_equal(found[row - 1], mask[int(center), 2:])


def test_the_whole_image_is_as_it_is_or_has_the_short_side():
    image, _ = scene((48, 80))
    normalise = Normalise(MEAN, STD)
    np.testing.assert_allclose(shown(whole_view(image, normalise)), np.asarray(image), atol=1e-3)
    view = whole_view(image, normalise, short_side=24)
    assert view.shape == (3, 24, 40)
    small = np.asarray(image.resize((40, 24), Image.Resampling.BICUBIC))
    np.testing.assert_allclose(shown(view), small, atol=1.01)


def test_one_channel_is_gray():
    image, mask = scene((40, 40))
    make = SegmentTransform((40, 40), mean=(0.5,), std=(0.2,), seed=0, **STILL)
    view, _ = make(image, mask, 0, 0)
    np.testing.assert_allclose(view[0] * 51 + 127.5, np.asarray(image.convert("L")), atol=1e-3)
    with pytest.raises(ValueError, match="3 channels, or 1 in gray, not 6"):
        Normalise((0.5,) * 6, (0.2,) * 6)


def test_scaled_pixels_are_clipped():
    pixels = np.array([0, 10, 200, 255], np.uint8)
    image = Image.fromarray(np.tile(pixels[:, None, None], 3))
    for factor, shift, expected in ((1.5, 0, [0, 15, 255, 255]), (1.0, -20, [0, 0, 180, 235])):
        found = np.asarray(colours.scaled(image, factor, shift))
        np.testing.assert_array_equal(found[:, 0], np.array(expected)[:, None].repeat(3, 1))


def test_hue_and_saturation_follow_the_definition():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
    found = np.asarray(colours.recoloured(Image.fromarray(pixels), 0.5, 0.25))
    for before, after in zip(pixels.reshape(-1, 3), found.reshape(-1, 3), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*(before / 255))
        expected = np.array(colorsys.hsv_to_rgb((hue + 0.25) % 1, saturation / 2, value)) * 255
        np.testing.assert_allclose(after, expected, atol=5)  # Pillow's HSV has 8 bits


def test_distortion_changes_colours_half_of_the_time_each():
    image = scene()[0]
    pixels = np.asarray(image)
    views = [np.asarray(colours.distort(image, np.random.default_rng(n))) for n in range(200)]
    same = sum(np.array_equal(view, pixels) for view in views)
    assert 3 <= same <= 30  # 1 in 16
    assert abs(np.mean(views) - pixels.mean()) < 6
