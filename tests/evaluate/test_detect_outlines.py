"""Outlines of objects: polygons as COCO's library fills them, run lengths as they are defined."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("faster_coco_eval")
from faster_coco_eval import mask as library

from fastimae.evaluate.detection.outlines import (
    Outline,
    Outlines,
    compressed,
    decompress,
    fill,
    read_outline,
)

SIZE = (30, 40)


def random_mask(seed, size=SIZE):
    """Return a mask of rectangles, bool [H, W]: some are empty, some touch the edges."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(size, bool)
    for _ in range(rng.integers(0, 4)):
        top, left = (rng.integers(0, side) for side in size)
        mask[top : top + rng.integers(1, 20), left : left + rng.integers(1, 20)] ^= True
    return mask


def runs_of(mask):
    """Count pixels outside, inside, outside, ... down the columns, one by one."""
    counts, inside = [0], False
    for pixel in mask.T.ravel().tolist():
        if pixel != inside:
            counts.append(0)
            inside = pixel
        counts[-1] += 1
    return counts


def inside(corners, x, y):
    """Whether a ray from a point crosses the edges of a polygon an odd number of times."""
    crossings = 0
    for (x1, y1), (x2, y2) in zip(corners, corners[1:] + corners[:1], strict=True):
        if (y1 > y) != (y2 > y):
            crossings += x < x1 + (y - y1) * (x2 - x1) / (y2 - y1)
    return crossings % 2 == 1


@pytest.mark.parametrize("seed", range(8))
def test_run_lengths(seed):
    mask = random_mask(seed)
    counts = runs_of(mask)
    plain = read_outline({"size": list(SIZE), "counts": counts}, SIZE)
    np.testing.assert_array_equal(fill(plain, SIZE), mask)
    text = library.encode(np.asfortranarray(mask, np.uint8))["counts"]
    small = read_outline({"size": list(SIZE), "counts": text.decode()}, SIZE)
    np.testing.assert_array_equal(fill(small, SIZE), mask)
    assert compressed(small, SIZE)["counts"] == compressed(plain, SIZE)["counts"] == text


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 1 << 20), min_size=1, max_size=30))
def test_compressed_numbers_of_any_size(counts):
    """Against COCO's definition: differences to the number two before, 5 bits a character."""
    text = b""
    for index, count in enumerate(counts):
        number, more = count - (counts[index - 2] if index > 2 else 0), True
        while more:
            bits, number = number & 0x1F, number >> 5
            more = number != (-1 if bits & 0x10 else 0)
            text += bytes([(bits | (0x20 if more else 0)) + 48])
    assert decompress(text).tolist() == counts


def test_a_polygon_has_the_pixels_whose_centres_are_in_it():
    corners = [(3.0, 4.0), (33.0, 2.0), (37.0, 26.0), (20.0, 14.0), (6.0, 27.0)]
    filled = fill(read_outline([[value for corner in corners for value in corner]], SIZE), SIZE)
    centres = [[inside(corners, x + 0.5, y + 0.5) for x in range(40)] for y in range(30)]
    differ = filled != np.array(centres)
    assert differ.sum() < 12, "other pixels than those on the edges"
    for y, x in np.argwhere(differ):  # the library rounds corners to a fifth of a pixel
        around = {inside(corners, x + 0.5 + dx, y + 0.5 + dy) for dx in (-1, 0, 1)
                  for dy in (-1, 0, 1)}  # fmt: skip
        assert around == {True, False}, (x, y)


def test_polygons_are_united():
    left, right = [2, 2, 2, 10, 10, 10, 10, 2], [6, 6, 6, 20, 20, 20, 20, 6]
    both = fill(read_outline([left, right], SIZE), SIZE)
    each = [fill(read_outline([one], SIZE), SIZE) for one in (left, right)]
    np.testing.assert_array_equal(both, each[0] | each[1])
    assert both.sum() == 8 * 8 + 14 * 14 - 4 * 4


def test_many_outlines_are_kept_exactly():
    given_outlines = [
        read_outline([[0.1, 0.2, 5.3, 0.7, 5.5, 9.9], [1, 1, 8, 1, 8, 8.25]], SIZE),
        Outline(),
        read_outline({"size": list(SIZE), "counts": [5, 7, 1188]}, SIZE),
    ]
    kept = Outlines(given_outlines)
    assert kept.known.tolist() == [True, False, True] and len(kept) == 3
    for one, other in zip(given_outlines, (kept[0], kept[1], kept[2]), strict=True):
        np.testing.assert_array_equal(fill(one, SIZE), fill(other, SIZE))
        assert len(one.polygons) == len(other.polygons)
        for mine, theirs in zip(one.polygons, other.polygons, strict=True):
            np.testing.assert_array_equal(mine, theirs)
    assert len(Outlines([])) == 0 and not Outlines([]).known.any()


@pytest.mark.parametrize(
    ("segmentation", "said"),
    [
        ([1, 2, 3, 4, 5, 6], "neither polygons"),
        ("abc", "neither polygons"),
        ([[1, 2, 3, 4, 5]], "not x, y"),
        ([[1, 2, 3, 4, 5, 1e9]], "far outside"),
        ([[1, 2, 3, 4, 5, float("inf")]], "far outside"),
        ([["1", None, 3, 4]], None),
        ({"size": [30, 40], "counts": [5, 7]}, "do not cover"),
        ({"size": [30, 40], "counts": [-5, 1205]}, "do not cover"),
        ({"size": [40, 30], "counts": [1200]}, "size of"),
        ({"counts": [1200]}, "size of None"),
        ({"size": [30, 40]}, None),
        ({"size": [30, 40], "counts": "o"}, "damaged"),
        ({"size": [30, 40], "counts": "\u1234"}, "damaged|cover"),
        ({"size": [30, 40], "counts": "oooooooooo0"}, "damaged"),
    ],
)
def test_outlines_of_another_form(segmentation, said):
    """The library would crash, or take all memory, for some of these."""
    with pytest.raises((ValueError, TypeError), match=said):
        read_outline(segmentation, SIZE)


@pytest.mark.parametrize("segmentation", [None, [], [[1, 1, 5, 5]], {}])
def test_no_outline(segmentation):
    outline = read_outline(json.loads(json.dumps(segmentation)), SIZE)
    assert not outline.is_known and not fill(outline, SIZE).any()
