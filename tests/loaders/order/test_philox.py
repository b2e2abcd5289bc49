"""Philox compared with published vectors and a transcription in Python integers."""

import inspect

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastimae.kernels.random_masking import philox as philox_of_masks
from fastimae.kernels.reference import MIXING_STREAM
from fastimae.kernels.reference_colors import JITTER_STREAM
from fastimae.loaders.order.philox import DrawStream, KeyStream, derive_keys, philox, uniform
from fastimae.models.drop_path import DROP_PATH_STREAM
from fastimae.objectives.blur import BLUR_STREAM
from fastimae.objectives.cutmix import CUTMIX_STREAM
from fastimae.objectives.predicted import PREDICTED_STREAM
from fastimae.objectives.second_view import SECOND_VIEW_STREAM

ONES = 0xFFFFFFFF
WORD = st.integers(0, ONES)

# Random123's known-answer vectors for philox4x32-10: counter, key words, result.
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000",
     "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff",
     "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0",
     "d16cfe09 94fdcceb 5001e420 24126ea1"),
]  # fmt: skip


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


def philox_by_hand(key: int, counter: list[int]) -> list[int]:
    x, low, high = list(counter), key & ONES, key >> 32
    for _ in range(10):
        a, b = x[0] * 0xD2511F53, x[2] * 0xCD9E8D57
        x = [(b >> 32) ^ x[1] ^ low, b & ONES, (a >> 32) ^ x[3] ^ high, a & ONES]
        low, high = (low + 0x9E3779B9) & ONES, (high + 0xBB67AE85) & ONES
    return x


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN)
def test_known_answers(counter, key, result):
    low, high = words(key)
    assert philox(high << 32 | low, words(counter)).tolist() == words(result)


@given(key=st.integers(0, 2**64 - 1), counter=st.lists(WORD, min_size=4, max_size=4))
def test_equals_python_integers(key, counter):
    assert philox(key, counter).tolist() == philox_by_hand(key, counter)


@given(keys=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=5))
def test_array_keys_equal_single_keys(keys):
    """Negative int64 keys are the same 64 bits as the unsigned ones."""
    counters = np.arange(8, dtype=np.uint32).reshape(2, 4)
    together = philox(np.array(keys, dtype=np.int64)[:, None], counters)
    assert together.shape == (len(keys), 2, 4)
    assert together.tolist() == [[philox_by_hand(k % 2**64, c) for c in counters.tolist()]
                                 for k in keys]  # fmt: skip


@given(
    seed=st.integers(-5, 2**64 - 1),
    number=st.integers(0, 2**40),
    epoch=st.integers(0, 10**6),
    copy=st.integers(0, 2**24 - 1),
)
def test_derived_key_packs_words_low_first(seed, number, epoch, copy):
    expected = philox_by_hand(seed % 2**64, [number & ONES, number >> 32, epoch, 2])
    again = philox_by_hand(seed % 2**64, [number & ONES, number >> 32, epoch, 2 + 256 * copy])
    key = int(derive_keys(seed, number, epoch, KeyStream.ORDER))
    keys = derive_keys(seed, [number, number], epoch, KeyStream.ORDER, [0, copy]).tolist()
    assert [key & ONES, key >> 32 & ONES] == expected[:2]
    assert [[k & ONES, k >> 32 & ONES] for k in keys] == [expected[:2], again[:2]]


def test_streams_epochs_and_seeds_differ():
    numbers = np.arange(1000)
    keys = [
        derive_keys(seed, numbers, epoch, stream)
        for seed in (0, 1)
        for epoch in (0, 1)
        for stream in (KeyStream.SAMPLE, KeyStream.ORDER)
    ]
    assert len(np.unique(keys)) == 8 * 1000


def test_each_draw_has_the_stream_reserved_for_it():
    of_masks = inspect.signature(philox_of_masks).parameters["stream"].default
    used = [of_masks, MIXING_STREAM, JITTER_STREAM, CUTMIX_STREAM, BLUR_STREAM]
    used += [SECOND_VIEW_STREAM, PREDICTED_STREAM, DROP_PATH_STREAM]
    assert used == [s for s in DrawStream if s not in (DrawStream.CROP, DrawStream.DECODER)]


def test_uniform_is_uniform():
    drawn = uniform(philox(7, np.arange(40000, dtype=np.uint32).reshape(-1, 4)))
    assert drawn.min() >= 0 and drawn.max() < 1
    assert abs(drawn.mean() - 0.5) < 0.01 and abs(drawn.var() - 1 / 12) < 0.003
    assert uniform(np.array([0, 2**31, ONES], dtype=np.uint32)).tolist() == [0, 0.5, ONES / 2**32]
