"""Weighted nearest neighbours of features (Wu et al. 2018).

N = training images, M = test images, D = feature width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fastimae.evaluate.labels.accuracy import hits, percentages
from fastimae.kernels.checks import check_shape
from fastimae.progress import tracked

ROWS_AT_ONCE = 256


def knn_accuracy(
    train: Tensor,
    train_labels: Tensor,
    val: Tensor,
    val_labels: Tensor,
    *,
    classes: int,
    ks: Sequence[int],
    temperature: float,
    quiet: bool = False,
) -> dict[int, dict[str, float]]:
    """Return {k: {"acc1", "acc5"} in percent}. train: [N, D]. val: [M, D]. Labels: int64.

    quiet: show no progress. Raises ValueError for shapes that do not match.
    """
    check_shape("train", train, "N", "D")
    check_shape("train_labels", train_labels, len(train))
    check_shape("val", val, "M", train.shape[1])
    check_shape("val_labels", val_labels, len(val))
    total = {k: torch.zeros(2, dtype=torch.int64, device=val.device) for k in ks}
    train = F.normalize(train, dim=1)
    for at in tracked(range(0, len(val), ROWS_AT_ONCE), "knn", "batch", quiet=quiet):
        rows = slice(at, at + ROWS_AT_ONCE)
        votes = knn_votes(
            train, train_labels, F.normalize(val[rows], dim=1),
            classes=classes, ks=ks, temperature=temperature,
        )  # fmt: skip
        for k, scores in votes.items():
            total[k] += hits(scores, val_labels[rows])
    return {k: percentages(counts, len(val)) for k, counts in total.items()}


def knn_votes(
    train: Tensor,
    labels: Tensor,
    queries: Tensor,
    *,
    classes: int,
    ks: Sequence[int],
    temperature: float,
) -> dict[int, Tensor]:
    """Return the votes of the nearest k for each class, {k: float32 [M, classes]}.

    train [N, D] and queries [M, D] have rows of length 1. A k above N means all N.
    """
    similarity, nearest = (queries @ train.T).topk(min(max(ks), len(train)), dim=1)
    weights, voted = (similarity / temperature).exp(), labels[nearest]
    empty = queries.new_zeros(len(queries), classes)
    return {k: empty.scatter_add(1, voted[:, :k], weights[:, :k]) for k in ks}
