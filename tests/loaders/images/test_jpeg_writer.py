"""The writer of test JPEGs: pictures depend on the coefficients, not on how they are sent."""

import dataclasses
import io
import random

import numpy as np
import pytest
from jpeg_entropy import Scan
from jpeg_kinds import apart, progression
from jpeg_writer import EXTENDED, PROGRESSIVE, Spec, coefficients, steps_of, write
from PIL import Image

COLOURS = ((2, 2), (1, 1), (1, 1))
SPEC = Spec(height=37, width=51, sampling=COLOURS, scans=(Scan((0, 1, 2)),), seed=7)
SCANS = {seed: progression(random.Random(seed), COLOURS) for seed in range(4)}
WAYS = {
    "standard tables": {"huffman": "standard"},
    "no tables": {"huffman": "none"},
    "other slots": {"slots": (2, 3, 3)},
    "16 bits": {"quantisation": 16},
    "restarts": {"restart": 2},
    "extended": {"frame": EXTENDED},
    "several scans": {"scans": apart(random.Random(0), COLOURS)},
    "tables between scans": {"scans": apart(random.Random(0), COLOURS), "between": True},
    **{f"progressive {i}": {"frame": PROGRESSIVE, "scans": scans} for i, scans in SCANS.items()},
    "progressive, restarts": {"frame": PROGRESSIVE, "scans": SCANS[0], "restart": 3},
    "progressive, between": {"frame": PROGRESSIVE, "scans": SCANS[1], "between": True},
    "progressive, standard": {"frame": PROGRESSIVE, "scans": SCANS[2], "huffman": "standard"},
}


def pixels(spec: Spec) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(write(spec))))


@pytest.mark.parametrize("way", WAYS)
def test_the_picture_is_the_same_in_whatever_way_it_is_sent(way):
    assert np.array_equal(pixels(dataclasses.replace(SPEC, **WAYS[way])), pixels(SPEC))


def test_the_scripts_of_scans_refine_dc_and_ac_and_send_bands():
    scans = [scan for each in SCANS.values() for scan in each]
    assert any(scan.high and not scan.last for scan in scans)
    assert any(scan.high and scan.last for scan in scans)
    assert any(scan.first > 1 for scan in scans)


def test_a_gray_picture_is_the_inverse_transform_of_its_coefficients():
    """According to the standard's formula."""
    spec = Spec(height=16, width=24, seed=3)
    order = sorted(np.ndindex(8, 8), key=lambda at: (sum(at), at[(sum(at) + 1) % 2]))
    rows, columns = np.array(order).T
    (values,) = coefficients(spec)
    blocks = np.zeros((2, 3, 8, 8))
    blocks[:, :, rows, columns] = values * steps_of(spec, 0)
    at = np.arange(8)
    basis = np.cos((2 * at + 1) * at[:, None] * np.pi / 16) / 2
    basis[0] /= np.sqrt(2)
    expected = np.einsum("yxuv,ui,vj->yixj", blocks, basis, basis).reshape(16, 24) + 128
    assert np.abs(pixels(spec) - expected.clip(0, 255)).max() <= 1
