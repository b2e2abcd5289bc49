"""Sliding windows: every pixel once or more, and the mean of what overlaps."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastimae.evaluate.segmentation import sliding
from fastimae.evaluate.segmentation.sliding import best_classes, corners_of, resized, slide


def per_pixel(crops):
    """Return logits that are a function of each pixel alone."""
    return torch.cat([crops, crops.square().sum(1, keepdim=True)], 1)


@settings(max_examples=30)
@given(
    st.integers(1, 40), st.integers(1, 40), st.integers(1, 16), st.integers(1, 16),
    st.integers(1, 16), st.integers(1, 16), st.integers(1, 5),
)  # fmt: skip
def test_a_model_of_single_pixels_gives_what_it_gives_of_the_whole(h, w, ch, cw, sh, sw, batch):
    image = torch.randn(1, 3, h, w)
    stride = min(sh, ch), min(sw, cw)
    found = slide(per_pixel, image, (ch, cw), stride, 4, batch)
    torch.testing.assert_close(found, per_pixel(image))


@given(st.integers(0, 50), st.integers(1, 30), st.data())
def test_crops_start_at_every_stride_and_end_at_the_edge(more, crop, data):
    side, stride = crop + more, data.draw(st.integers(1, crop))
    starts = [left for _, left in corners_of((crop, side), (crop, crop), (crop, stride))]
    covered = np.zeros(side, int)
    for start in starts:
        covered[start : start + crop] += 1
    assert covered.min() > 0
    assert starts[0] == 0
    assert starts[-1] == side - crop
    assert starts[:-1] == [number * stride for number in range(len(starts) - 1)]
    assert len(starts) == len(set(starts))


def test_logits_are_averaged_where_crops_overlap():
    """A model that numbers its crops, by a loop over pixels."""
    seen = []

    def number(crops):
        numbers = torch.arange(len(seen), len(seen) + len(crops)).float()
        seen.extend(numbers.tolist())
        return numbers[:, None, None, None].expand(-1, 2, *crops.shape[2:])

    found = slide(number, torch.zeros(1, 1, 9, 11), 6, 4, batch_size=3)
    corners = corners_of((9, 11), (6, 6), (4, 4))
    assert corners == [(0, 0), (0, 4), (0, 5), (3, 0), (3, 4), (3, 5)]
    for row in range(9):
        for column in range(11):
            over = [number for number, (top, left) in enumerate(corners)
                    if top <= row < top + 6 and left <= column < left + 6]  # fmt: skip
            assert found[0, :, row, column].tolist() == pytest.approx([np.mean(over)] * 2)


def test_the_stride_is_two_thirds_of_the_crop_unless_it_is_given():
    sizes = []

    def model(crops):
        sizes.append(len(crops))
        return crops

    slide(model, torch.zeros(1, 1, 6, 14), 6)
    assert sizes == [3]  # from 0, 4 and 8
    slide(model, torch.zeros(1, 1, 6, 14), 6, 6, batch_size=2)
    assert sizes[1:] == [2, 1]


def test_the_number_of_crops_together_changes_nothing():
    conv = torch.nn.Conv2d(3, 5, 3, padding=1)
    image = torch.randn(1, 3, 50, 40)
    one, many = (slide(conv, image, 16, batch_size=size) for size in (1, 32))
    torch.testing.assert_close(one, many)
    assert not one.requires_grad


def test_a_small_image_is_padded_with_the_mean_below_and_on_the_right():
    given_crops = []

    def model(crops):
        given_crops.append(crops)
        return crops

    image = torch.randn(1, 2, 5, 7)
    assert torch.equal(slide(model, image, (8, 6), 6), image)
    (crops,) = given_crops
    assert crops.shape == (2, 2, 8, 6)
    assert (crops[:, :, 5:] == 0).all()


def test_coarse_logits_are_enlarged():
    image = torch.randn(1, 1, 16, 16)
    coarse = slide(lambda crops: torch.nn.functional.avg_pool2d(crops, 4), image, 16)
    expected = resized(torch.nn.functional.avg_pool2d(image, 4), (16, 16))
    torch.testing.assert_close(coarse, expected)


def test_what_cannot_be():
    image = torch.zeros(1, 3, 8, 8)
    with pytest.raises(ValueError, match="stride"):
        slide(per_pixel, image, 4, 5)
    with pytest.raises(ValueError, match="logits must be"):
        slide(per_pixel, image, 4, classes=7)
    with pytest.raises(ValueError, match="image must be"):
        slide(per_pixel, image[0], 4)


def test_the_best_class_is_that_of_all_enlarged_together(monkeypatch):
    """Of equal ones the first, as argmax has it."""
    logits = torch.randn(1, 7, 5, 6, generator=torch.Generator().manual_seed(0)).round()
    expected = resized(logits, (11, 9)).argmax(1)
    for at_once in (1, 2 * 99, 3 * 99 + 5, 1 << 20):
        monkeypatch.setattr(sliding, "_LOGITS_AT_ONCE", at_once)
        assert torch.equal(best_classes(logits, (11, 9)), expected)
