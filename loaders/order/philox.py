"""Philox4x32-10, the counter-based generator behind everything random, and its stream numbers.

A counter-based generator is a pure function of (key, counter): there is no state to save, share
between workers or restore, and any number can be drawn on its own. Algorithm: Salmon et al.,
"Parallel random numbers: as easy as 1, 2, 3", SC 2011.

Randomness comes in two stages. `derive_keys` makes keys from the user's seed, one per sample or
step; then crops, masks and mixing ratios are drawn from these keys. Each stage numbers its uses
(`KeyStream`, `DrawStream`) in the last counter word, so that no two of them share random words.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray


class KeyStream(IntEnum):
    """First stage: what a key derived from the seed is for.

    The counter is (number low, number high, epoch, stream + 256 * copy). Synthetic images alone are
    drawn from the seed directly, at (block, 0, 0, 0).
    """

    SAMPLE = 0
    """A sample in an epoch: its crop, flip and mask."""
    STEP = 1
    """An optimizer step in an epoch: draws that all its samples share, such as a mixing ratio."""
    ORDER = 2
    """Sort key of a sample: the order of an epoch."""
    PAIR = 3
    """Second sort key of a sample, for mixing partners by class."""
    FILE_ORDER = 4
    """Sort key of a sample in conversion: its position in the `.beton` file."""
    ROW = 5
    """A row of a batch that a user's own code makes; "epoch" is the rank then."""
    CHOICE = 6
    """Sort key of a sample, and as copy 1 of a class: which images of a data set a run uses."""


class DrawStream(IntEnum):
    """Second stage: what is drawn from a derived key. The counter is (block, 0, 0, stream)."""

    MASK = 0
    """From a sample's key: its mask, in kernels/random_masking.py, which cannot import this."""
    CROP = 1
    """From a sample's key: crop window and flip."""
    MIXING = 2
    """From a step's or a sample's key: mixing ratios, in kernels/reference.py, likewise."""
    DECODER = 3
    """From a sample's key: which of two decoders handles it (`--dali_share`)."""
    JITTER = 4
    """From a sample's key: its change of colours, in kernels/reference_colors.py."""
    CUTMIX = 5
    """From a sample's key: its box of another image, in fastimae/objectives/cutmix.py."""
    BLUR = 6
    """From a sample's key: its blur, in fastimae/objectives/blur.py."""
    SECOND_VIEW = 7
    """From a sample's key: the key of its second view, in fastimae/objectives/second_view.py."""
    PREDICTED = 8
    """From a sample's key: its masked patches to predict, in fastimae/objectives/predicted.py."""
    DROP_PATH = 9
    """From a sample's key: the paths that it skips, in fastimae/models/drop_path.py."""


_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_KEY_STEPS = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_CHUNK = 1 << 14
COPY_SHIFT = 8  # copies are counted above the streams, in the same counter word
COPIES = 1 << 32 - COPY_SHIFT
"""Number of copies that a sample can have in an epoch."""


def philox(key: int | NDArray, counter: ArrayLike) -> NDArray[np.uint32]:
    """Return four random 32-bit words for each counter, uint32 [..., 4].

    key: an int taken modulo 2**64, or an int64 or uint64 array that broadcasts against
        `counter.shape[:-1]`. Its low half is the algorithm's first key word.
    counter: uint32 [..., 4].
    """
    key = _as_uint64(key)
    key0, key1 = key & _LOW, key >> _HALF
    x0, x1, x2, x3 = np.moveaxis(np.asarray(counter, dtype=np.uint32).astype(np.uint64), -1, 0)
    for _ in range(10):
        product0, product1 = x0 * _MULTIPLIERS[0], x2 * _MULTIPLIERS[1]
        x0, x1 = (product1 >> _HALF) ^ x1 ^ key0, product1 & _LOW
        x2, x3 = (product0 >> _HALF) ^ x3 ^ key1, product0 & _LOW
        key0, key1 = (key0 + _KEY_STEPS[0]) & _LOW, (key1 + _KEY_STEPS[1]) & _LOW
    return np.stack([x0, x1, x2, x3], axis=-1).astype(np.uint32)


def derive_keys(
    seed: int, numbers: ArrayLike, epoch: int, stream: KeyStream, copies: ArrayLike = 0
) -> NDArray[np.int64]:
    """Derive a 64-bit key for each of `numbers` (sample indices or step numbers, >= 0).

    copies: the copy of each number that the key is for, in [0, COPIES): an epoch has several of a
        sample under repeated augmentation, and if it draws more samples than there are.
    Returns int64 of the same shape: words 0 (low half) and 1 (high half) of a Philox block.
    """
    numbers = np.asarray(numbers, dtype=np.uint64)
    streams = stream + (np.broadcast_to(copies, numbers.shape).reshape(-1) << COPY_SHIFT)
    keys = np.empty(numbers.shape, dtype=np.uint64)
    flat_numbers, flat_keys = numbers.reshape(-1), keys.reshape(-1)
    # In chunks that stay in the processor's cache: nine times faster for a million numbers.
    for start in range(0, numbers.size, _CHUNK):
        chunk = flat_numbers[start : start + _CHUNK]
        counter = np.empty((len(chunk), 4), dtype=np.uint32)
        counter[:, 0] = chunk & _LOW
        counter[:, 1] = chunk >> _HALF
        counter[:, 2] = epoch
        counter[:, 3] = streams[start : start + _CHUNK]
        words = philox(seed, counter).astype(np.uint64)
        flat_keys[start : start + _CHUNK] = words[:, 0] | words[:, 1] << _HALF
    return keys.view(np.int64)


def row_keys(
    count: int, *, seed: int, step: int, rank: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Derive the keys of a batch that no sampler planned: of its rows, int64 [count], which differ
    in all steps and ranks, and of the step, int64 [1], the same on every rank."""
    rows = derive_keys(seed, (step << 32) + np.arange(count), rank, KeyStream.ROW)
    return rows, derive_keys(seed, [step], 0, KeyStream.STEP)


def uniform(words: NDArray[np.uint32]) -> NDArray[np.float64]:
    """Map words to float64 in [0, 1), exactly word / 2**32."""
    return words * 2.0**-32


def _as_uint64(key: int | NDArray) -> NDArray[np.uint64]:
    if isinstance(key, int):
        return np.uint64(key & 0xFFFFFFFFFFFFFFFF)
    return key.astype(np.uint64)
