"""Who is mixed with whom: partners inside groups of consecutive samples of the epoch's order.

The order is random, so fixed patterns of positions give random pairs:

- `cycle`: each sample is mixed with the next one of its group, the last with the first. Since the
  group's order is random, this is a uniformly random cycle through the group: nobody is their own
  partner, and everybody is the main image of one mixture and the added image of one. Where the
  group is shown several times, the second showing mixes with the next but one, and so on.
- `reciprocal`: samples 2i and 2i + 1 are each other's partners.

How many pairs share a class is set through the order: `same_class_order` lays samples out so that
a given share of the reciprocal pairs do.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


def cycle(count: int, group: int, showings: int = 1) -> Indices:
    """Partner positions int64 [count], a multiple of `group` x `showings` (of each group)."""
    position = np.arange(count)
    start = position // group * group
    step = 1 + position // group % showings % max(1, group - 1)
    return start + (position - start + step) % group


def reciprocal(count: int) -> Indices:
    """Partner positions int64 [count]; `count` is even."""
    return np.arange(count) ^ 1


def same_class_order(
    labels: Indices, shuffled: Indices, reshuffled: Indices, ratio: float, count: int
) -> tuple[Indices, str]:
    """An order whose neighbours (2i, 2i + 1) share a class in a share `ratio` of all pairs.

    labels: int64 [N]; shuffled, reshuffled: two independent random permutations of N samples;
    count: even length of the order, at most N. Pairs of both kinds are spread evenly, so that any
    stretch of the order has the ratio.
    Returns the order int64 [count] and, where the labels do not allow the ratio, the reason.
    """
    pairs = count // 2
    wanted = round(ratio * pairs)
    same = _pairs_of_one_class(labels, shuffled, wanted, pairs)
    same = same[np.argsort(_ranks(reshuffled)[same[:, 0]])]

    free = np.ones(len(labels), dtype=bool)
    free[same] = False
    singles = reshuffled[free[reshuffled]]
    unlike = _separate(labels, singles[: 2 * (pairs - len(same))].reshape(-1, 2))

    # Error diffusion: pair i is of one class where the running total steps up.
    is_same = np.diff(np.arange(pairs + 1) * len(same) // max(pairs, 1)) > 0
    order = np.empty((pairs, 2), dtype=np.int64)
    order[is_same], order[~is_same] = same, unlike
    reason = ""
    if len(same) < wanted:
        reason = f"the classes have only {len(same)} pairs, {wanted} are needed"
    elif len(unlike) and (labels[unlike[:, 0]] == labels[unlike[:, 1]]).any():
        reason = "one class holds more than half of the samples left for mixed pairs"
    return order.ravel(), reason


def _pairs_of_one_class(labels: Indices, shuffled: Indices, wanted: int, total: int) -> Indices:
    """Disjoint random pairs [P, 2] of one class, P = `wanted` or as many as there are.

    All classes give the same share of their samples. Only a class so large that the rest of it
    could not be paired with other classes, once there are `total` pairs in all, gives more.
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
    """Random pairs [P, 2], re-paired where both are of one class, as far as that is possible.

    The clashing pairs are dissolved, their samples sorted by class, and the first half paired with
    the second: of another class unless one class holds more than half. To prevent that, pairs
    without this class are dissolved as well until it holds half.
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
    # Classes in the order of first appearance, which is random: other classes meet each epoch.
    _, first, code = np.unique(labels[members], return_index=True, return_inverse=True)
    members = members[np.argsort(first[code], kind="stable")]
    half = len(members) // 2
    pairs = pairs.copy()
    pairs[dissolve] = np.stack([members[:half], members[half:]], axis=1)
    return pairs


def _ranks(permutation: Indices) -> Indices:
    """Where each number stands in `permutation`."""
    ranks = np.empty_like(permutation)
    ranks[permutation] = np.arange(len(permutation))
    return ranks
