"""An epoch of any length: whole passes over the images, one after the other.

Each pass is a permutation of all images, so that an epoch draws each as often as the next, give or
take one. In long epochs of few images an image comes again soon, and must not be mixed with itself:

- Of three draws in a row, none is the same as another, across passes as well: `apart`. Then in any
  group of draws an image has at most half of them (with three images or more).
- Where a fixed pattern of partners would pair an image with itself, the group's rows are paired
  anew: `without_self`.

P = passes, N = images, B = rows of a batch.
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from fastimae.loaders.order.philox import KeyStream, derive_keys

Indices = NDArray[np.int64]
APART = 2
"""Draws after which an image may come again. Groups of 2 and 3 need it, larger ones need less."""


def shuffles(seed: int, images: Indices, epoch: int, stream: KeyStream, passes: int = 1) -> Indices:
    """Return the order of `images`, int64 [N], in each pass: a permutation of 0..N-1, [P, N]."""
    numbers, copies = np.tile(images, passes), np.repeat(np.arange(passes), len(images))
    keys = derive_keys(seed, numbers, epoch, stream, copies).reshape(passes, -1)
    return np.argsort(keys, axis=1, kind="stable")


def apart(passes: Indices) -> Indices:
    """Keep draws that are `APART` or fewer apart different where a pass, [P, N], meets the next.

    There an image that would come too soon changes places with those after it; of two images, each
    comes every other time. Returns all passes, one after the other, [P * N].
    """
    width = min(APART, passes.shape[1] - 1)
    if len(passes) == 1 or not width:
        return passes.ravel()
    rows = passes.tolist()
    for before, row in itertools.pairwise(rows):
        for place in range(width):
            too_soon = itertools.takewhile(before[place - width :].__contains__, row[place:])
            row.insert(place, row.pop(place + len(list(too_soon))))
    return np.array(rows, np.int64).ravel()


def without_self(index: Indices, partner: Indices, group: int) -> Indices:
    """Return `partner` with new partners in those groups where it mixes an image with itself.

    index, partner: int64 [B], of groups of `group` consecutive rows. A group's rows are sorted by
    image, in the order of first appearance, and mixed with those that are as many rows further as
    the most frequent image has. That separates all, unless one image has more than half of them.
    """
    clash = (index == index[partner]).reshape(-1, group).any(axis=1)
    if not clash.any():
        return partner
    partner = partner.copy()
    for start in np.flatnonzero(clash) * group:
        rows = index[start : start + group]
        _, first, code, counts = np.unique(
            rows, return_index=True, return_inverse=True, return_counts=True
        )
        order = start + np.argsort(first[code], kind="stable")
        partner[order] = np.roll(order, -counts.max())
    return partner
