"""k-means: Lloyd's iterations from starts by k-means++, in chunks, on the device of the rows.

The same rows on the same kind of device, with as many threads, give the same bits.

N = rows, D = width, K = clusters.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from fastimae.log import log
from fastimae.progress import Meter

TOLERANCE = 1e-4
"""Iterations end when the centres move by less than this share of the rows' variance."""
START_ROWS = 64
"""Rows for each cluster that a start is drawn from, at most; but no fewer than `FEWEST_ROWS`."""
FEWEST_ROWS = 1 << 14
NOISE = 1e-6
"""A dimension whose deviation is a smaller share of its mean is constant up to rounding."""
CHUNK = 1 << 25
"""Largest number of elements of a temporary matrix: 128 MB in fp32, 256 MB in fp64."""


class Clusters(NamedTuple):
    """Rows in clusters, none of which is empty."""

    labels: Tensor
    """int64 [N], 0 to K - 1."""
    centres: Tensor
    """float32 [K, D], each the mean of its rows, up to `TOLERANCE`."""
    inertia: float
    """Sum of squared distances of the rows to their centres."""
    iterations: int


def k_means(rows: Tensor, k: int, *, seed: int, tries: int, iterations: int) -> Clusters:
    """Cluster rows, float32 [N, D], several times; return the clusters with the least inertia.

    tries: number of starts. iterations: of each, at most. There must be k distinct rows: see
    `distinct_rows`.
    """
    best: Clusters | None = None
    for number in range(tries):
        rng = np.random.default_rng((seed, number))
        count = max(START_ROWS * k, FEWEST_ROWS)
        some = torch.from_numpy(np.sort(rng.permutation(len(rows))[:count])).to(rows.device)
        found = lloyd(rows, plus_plus(rows[some], k, rng), iterations, TOLERANCE)
        log.info(
            "k-means, start %d of %d: inertia %.6g after %d iterations%s",
            number + 1, tries, found.inertia, found.iterations,
            "" if found.iterations < iterations else ", the most that --iterations allows",
        )  # fmt: skip
        if best is None or found.inertia < best.inertia:
            best = found
    return best


def plus_plus(rows: Tensor, k: int, rng: np.random.Generator) -> Tensor:
    """Choose K of the rows as centres to start from, float32 [K, D], by greedy k-means++.

    Arthur and Vassilvitskii (2007): rows are drawn with probabilities proportional to the squared
    distance to the nearest centre so far; of 2 + log K draws the one that leaves the least sum of
    these distances becomes a centre.
    """
    draws = 2 + int(math.log(k))
    squares = rows.square().sum(1)
    chosen = [int(rng.integers(len(rows)))]
    nearest = _distances_to(rows, squares, chosen)[0]
    with Meter(k - 1, "k-means++", "centre") as meter:
        for _ in range(k - 1):
            total = nearest.cpu().double().cumsum(0).numpy()
            drawn = np.searchsorted(total, rng.random(draws) * total[-1], side="right")
            candidates = drawn.clip(max=len(rows) - 1).tolist()
            left = torch.minimum(nearest, _distances_to(rows, squares, candidates))
            best = int(left.sum(1, dtype=torch.float64).argmin())
            chosen.append(candidates[best])
            nearest = left[best]
            meter.update()
    return rows[torch.tensor(chosen, device=rows.device)]


def lloyd(rows: Tensor, centres: Tensor, iterations: int, tolerance: float = 0.0) -> Clusters:
    """Move the centres, float32 [K, D], to the means of their rows, float32 [N, D], repeatedly.

    tolerance: ends when the sum of squared moves is at most this share of the mean variance of the
    dimensions; 0: when nothing moves. An empty cluster gets the row that is farthest from its
    centre.
    """
    centres, limit = centres.clone(), tolerance * float(moments(rows)[1].mean())
    done, moved = 0, math.inf
    with Meter(None, "k-means", "iteration") as meter:
        while done < iterations and moved > limit:
            means = _means(rows, _assign(rows, centres), len(centres))
            moved = float((means - centres).double().square().sum())
            centres, done = means, done + 1
            meter.update()
    labels = _assign(rows, centres)
    return Clusters(labels, centres, _inertia(rows, centres, labels), done)


def moments(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and variance of each dimension of rows, [N, D]: float64 [D] each."""
    mean = sum(part.double().sum(0) for (part,) in _parts(rows)) / len(rows)
    return mean, sum((part - mean).square().sum(0) for (part,) in _parts(rows)) / len(rows)


def normalised(rows: Tensor) -> Tensor:
    """Return rows, [N, D], with mean 0 and variance 1 in each dimension, then scaled to length 1.

    A constant dimension and a row of zeros become zeros.
    """
    mean, variance = moments(rows)
    deviation = variance.sqrt()
    constant = deviation <= NOISE * mean.abs()
    scale = torch.where(constant, 0, 1 / deviation.where(~constant, 1))
    parts = (((part - mean) * scale).float() for (part,) in _parts(rows))
    return torch.cat([normalize(part) for part in parts])


def distinct_rows(rows: Tensor, enough: int) -> int:
    """Count the distinct rows of [N, D], on the CPU; counting ends at `enough`."""
    found: set[bytes] = set()
    for row in rows.numpy():
        if len(found) >= enough:
            break
        found.add(hashlib.blake2b(row.tobytes(), digest_size=16).digest())
    return len(found)


def _assign(rows: Tensor, centres: Tensor) -> Tensor:
    """Return the nearest centre of each row, int64 [N]; the first of several.

    Centres of empty clusters are changed.
    """
    squares = centres.square().sum(1)
    labels = torch.cat([
        torch.addmm(squares, part, centres.T, alpha=-2).argmin(1)  # less the rows' own squares
        for (part,) in _parts(rows, width=len(centres))
    ])  # fmt: skip
    _fill_empty(rows, centres, labels)
    return labels


def _fill_empty(rows: Tensor, centres: Tensor, labels: Tensor) -> None:
    """Move the farthest row of all into each empty cluster, in place; none is emptied by that."""
    counts = torch.bincount(labels, minlength=len(centres))
    empty = (counts == 0).nonzero()[:, 0].tolist()
    if not empty:
        return
    distances = torch.cat(
        [(part - centres[nearest]).square().sum(1) for part, nearest in _parts(rows, labels)]
    )
    for cluster in empty:
        farthest = int(torch.where(counts[labels] > 1, distances, -1).argmax())
        counts[labels[farthest]] -= 1
        counts[cluster] = 1
        labels[farthest] = cluster
        centres[cluster] = rows[farthest]
        distances[farthest] = 0


def _means(rows: Tensor, labels: Tensor, k: int) -> Tensor:
    """Return the mean of the rows of each cluster, float32 [K, D], summed in fp64."""
    sums = rows.new_zeros((k, rows.shape[1]), dtype=torch.float64)
    with _deterministic():
        for part, nearest in _parts(rows, labels):
            sums.index_add_(0, nearest, part.double())
    return (sums / torch.bincount(labels, minlength=k)[:, None]).float()


def _inertia(rows: Tensor, centres: Tensor, labels: Tensor) -> float:
    parts = _parts(rows, labels)
    return float(sum((part - centres[nearest]).double().square().sum() for part, nearest in parts))


def _distances_to(rows: Tensor, squares: Tensor, chosen: list[int]) -> Tensor:
    """Return squared distances of all rows to the chosen ones, float32 [chosen, N].

    squares: of the rows' lengths, [N]. Rounding is not below 0, and a row is at distance 0 from
    itself.
    """
    index = torch.tensor(chosen, device=rows.device)
    found = squares + squares[index, None] - 2 * rows[index] @ rows.T
    found[torch.arange(len(chosen), device=rows.device), index] = 0
    return found.clamp_(min=0)


def _parts(rows: Tensor, *others: Tensor, width: int = 0) -> Iterator[tuple[Tensor, ...]]:
    """Split rows, [N, D], and others, [N], so that [part, D] and [part, width] fit `CHUNK`."""
    size = max(1, CHUNK // max(width, rows.shape[1]))
    return zip(*(each.split(size) for each in (rows, *others)), strict=True)


@contextlib.contextmanager
def _deterministic() -> Iterator[None]:
    """Let CUDA add in an order that is always the same."""
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)
