"""fastimae-eval knn: weighted nearest neighbours of features; no training, so nothing to tune.

The method: Wu et al. (2018). N = training images, M = test images, D = feature width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fastimae.evaluate.labels.accuracy import hits, in_words, percentages
from fastimae.evaluate.labels.probe import probe_data
from fastimae.evaluate.labels.processes import joined_processes
from fastimae.evaluate.options.labels import KnnOptions
from fastimae.evaluate.results import open_results
from fastimae.kernels.checks import check_shape
from fastimae.log import log
from fastimae.progress import tracked

ROWS_AT_ONCE = 256


def run(options: KnnOptions) -> None:
    """Write results.json: acc1, acc5 of the best k, and of each k."""
    with joined_processes(options) as world, open_results(options, "knn", world=world) as results:
        data = probe_data(options, world, results.folder)
        if not world.is_main:
            return
        by_k = knn_accuracy(
            data.train.rows.to(world.device), data.train.labels.to(world.device),
            data.val.rows.to(world.device), data.val.labels.to(world.device),
            classes=data.classes, ks=options.k, temperature=options.temperature,
        )  # fmt: skip
        best = max(by_k, key=lambda k: by_k[k]["acc1"])
        numbers = {**by_k[best], "k": best, "by_k": by_k, **data.sizes()}
        path = results.save(numbers, origin=data.origin)
        log.info("knn: %s with k = %d; %s", in_words(numbers), best, path)


def knn_accuracy(
    train: Tensor,
    train_labels: Tensor,
    val: Tensor,
    val_labels: Tensor,
    *,
    classes: int,
    ks: Sequence[int],
    temperature: float,
) -> dict[int, dict[str, float]]:
    """Return {k: {"acc1", "acc5"} in percent}. train: [N, D]. val: [M, D]. Labels: int64."""
    check_shape("train", train, "N", "D")
    check_shape("train_labels", train_labels, len(train))
    check_shape("val", val, "M", train.shape[1])
    check_shape("val_labels", val_labels, len(val))
    total = {k: torch.zeros(2, dtype=torch.int64, device=val.device) for k in ks}
    train = F.normalize(train, dim=1)
    for at in tracked(range(0, len(val), ROWS_AT_ONCE), "knn", "batch"):
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
