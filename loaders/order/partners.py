"""Mixing partners: which two samples of a group, consecutive in the epoch's order, are mixed.

The order is random, so fixed patterns of positions give random pairs:

- `cycle`: each sample is mixed with the next one of its group, the last with the first. Since the
  group's order is random, this is a uniformly random cycle through the group: no sample is its own
  partner, and each is the subordinate image of exactly one mixture and the dominant image of
  another. If a group comes in several copies, the second is mixed with the next sample but one,
  and so on.
- `reciprocal`: samples 2i and 2i + 1 are each other's partners. If they also share a mask, a
  teacher encodes each image once instead of twice. But then pairs of mixtures teach nearly the same
  thing, so gradients vary more: by 9 to 18 %, depending on model and ratio, in a small i-MAE with a
  teacher on CIFAR-10 (3 blocks of width 64, batches of 16 and 32), before and after 600 steps. That
  costs as much as a batch that is smaller by this much, and saves 6 % of the work, so it is off
  by default.

The order also controls how many pairs share a class: `same_class_order` arranges the samples so
that a given share of the reciprocal pairs do.

N = samples, P = pairs.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


def cycle(count: int, group: int, copies: int = 1) -> Indices:
    """Return partner positions, int64 [count], in groups of `group` rows.

    Each group comes in `copies` successive copies; `count` is a multiple of `group` x `copies`.
    """
    position = np.arange(count)
    start = position // group * group
    step = 1 + position // group % copies % max(1, group - 1)
    return start + (position - start + step) % group


def random_cycle(key: Indices) -> Indices:
    """Return partner positions, int64 [B]: a cycle through all rows in the order of their keys."""
    order = np.argsort(key, kind="stable")
    partner = np.empty_like(order)
    partner[order] = np.roll(order, -1)
    return partner


def reciprocal(count: int) -> Indices:
    """Return partner positions, int64 [count]; `count` is even."""
    return np.arange(count) ^ 1


def same_class_order(
    labels: Indices, shuffled: Indices, reshuffled: Indices, ratio: float, count: int
) -> tuple[Indices, str]:
    """Arrange samples so that a share `ratio` of the pairs (2i, 2i + 1) have a common class.

    labels: int64 [N]; shuffled, reshuffled: two independent random permutations of N samples;
    count: even length of the order, at most N. Pairs of both kinds are spread evenly, so that every
    part of the order has the ratio.
    Returns the order, int64 [count], and the reason if the labels do not allow the ratio, else "".
    """
    pairs = count // 2
    wanted = round(ratio * pairs)
    same = _pairs_of_one_class(labels, shuffled, wanted, pairs)
    same = same[np.argsort(_ranks(reshuffled)[same[:, 0]])]

    free = np.ones(len(labels), dtype=bool)
    free[same] = False
    singles = reshuffled[free[reshuffled]]
    unlike = _separate(labels, singles[: 2 * (pairs - len(same))].reshape(-1, 2))

    # Error diffusion: pair i shares a class where the running total increases.
    is_same = np.diff(np.arange(pairs + 1) * len(same) // max(pairs, 1)) > 0
    order = np.empty((pairs, 2), dtype=np.int64)
    order[is_same], order[~is_same] = same, unlike
    reason = ""
    if len(same) < wanted:
        reason = f"the classes have only {len(same)} pairs, but {wanted} are needed"
    elif len(unlike) and (labels[unlike[:, 0]] == labels[unlike[:, 1]]).any():
        reason = "one class has more than half of the samples left for pairs of two classes"
    return order.ravel(), reason


def _pairs_of_one_class(labels: Indices, shuffled: Indices, wanted: int, total: int) -> Indices:
    """Draw disjoint random pairs [P, 2] with a common class, P = `wanted` or as many as exist.

    All classes contribute the same share of their samples. Only a class so large that its rest
    could not be paired with other classes, with `total` pairs overall, contributes more.
    """
    members = shuffled[np.argsort(labels[shuffled], kind="stable")]
    _, start, size = np.unique(labels[members], return_index=True, return_counts=True)
    available = size // 2
    least = np.minimum((size - (total - wanted) + 1) // 2, available)

    code = np.repeat(np.arange(len(size)), available)
    number = np.arange(len(code)) - np.repeat(np.cumsum(available) - available, available)
    first = start[code] + 2 * number
    pairs = np.stack([members[first], members[first + 1]], axis=1)
    share = np.where(number < least[code], 0, (number + 1) / available[code])
    # Equal shares in a random order of classes, so that no class is favoured.
    tie = _ranks(shuffled)[pairs[:, 0]]
    return pairs[np.lexsort((tie, share))[:wanted]]


def _separate(labels: Indices, pairs: Indices) -> Indices:
    """Re-pair those random pairs [P, 2] that have a common class, as far as possible.

    These pairs are dissolved, their samples sorted by class, and the first half paired with the
    second half: that separates all, unless one class has more than half of them. To prevent that,
    pairs without this class are dissolved too, until it has half.
    """
    classes = labels[pairs]
    clash = classes[:, 0] == classes[:, 1]
    if not clash.any():
        return pairs
    values, counts = np.unique(classes[clash, 0], return_counts=True)
    largest, number = values[counts.argmax()], counts.max()
    helpers = np.flatnonzero((classes != largest).all(axis=1) & ~clash)
    dissolve = np.concatenate([np.flatnonzero(clash), helpers[: max(0, 2 * number - clash.sum())]])
    members = pairs[dissolve].ravel()
    # Classes in order of first appearance, which is random: each epoch pairs other classes.
    _, first, code = np.unique(labels[members], return_index=True, return_inverse=True)
    members = members[np.argsort(first[code], kind="stable")]
    half = len(members) // 2
    pairs = pairs.copy()
    pairs[dissolve] = np.stack([members[:half], members[half:]], axis=1)
    return pairs


def _ranks(permutation: Indices) -> Indices:
    """Invert a permutation: the position of each number in it."""
    ranks = np.empty_like(permutation)
    ranks[permutation] = np.arange(len(permutation))
    return ranks
