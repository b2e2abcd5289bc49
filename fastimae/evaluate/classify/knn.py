"""Weighted nearest neighbours (Wu et al., 2018): no training, so no settings to tune.

N = images to learn from, M = to test, D = feature width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fastimae.evaluate.classify.accuracy import hits, percentages
from fastimae.evaluate.classify.probe import ProbeOptions, probe_data
from fastimae.evaluate.options import joined, results_folder
from fastimae.evaluate.results import save_results
from fastimae.kernels.checks import check_shape
from fastimae.log import log
from fastimae.settings import PositiveFloat, PositiveInt

ROWS_AT_ONCE = 256


@dataclasses.dataclass(kw_only=True)
class KnnOptions(ProbeOptions):
    """Classify by weighted nearest neighbours among the training images' features."""

    k: tuple[PositiveInt, ...] = (10, 20, 100, 200)
    """Numbers of neighbours to try; the best is reported too."""
    temperature: PositiveFloat = 0.07
    """A neighbour's vote weighs exp(cosine similarity / temperature)."""


def run(options: KnnOptions) -> None:
    """Write results.json: acc1, acc5 of the best k, and of each."""
    with joined(options) as world, results_folder(options, "knn", world=world) as folder:
        data = probe_data(options, world, folder)
        if not world.is_main:
            return
        by_k = knn_accuracy(
            data.train.rows.to(world.device), data.train.labels.to(world.device),
            data.val.rows.to(world.device), data.val.labels.to(world.device),
            classes=data.classes, ks=options.k, temperature=options.temperature,
        )  # fmt: skip
        best = max(by_k, key=lambda k: by_k[k]["acc1"])
        numbers = {**by_k[best], "k": best, "by_k": by_k, **data.sizes()}
        path = save_results(folder, "knn", numbers, options, origin=data.origin)
        log.info("knn: acc1 %.2f %%, acc5 %.2f %% with k = %d; %s",
                 numbers["acc1"], numbers["acc5"], best, path)  # fmt: skip


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
    """{k: {"acc1", "acc5"} in percent}. train, val: [N, D], [M, D]; labels int64."""
    check_shape("train", train, "N", "D")
    check_shape("train_labels", train_labels, len(train))
    check_shape("val", val, "M", train.shape[1])
    check_shape("val_labels", val_labels, len(val))
    total = {k: torch.zeros(2, dtype=torch.int64, device=val.device) for k in ks}
    train = F.normalize(train, dim=1)
    for at in range(0, len(val), ROWS_AT_ONCE):
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
    """Votes for each class by the nearest k, float32 [M, classes] for each k.

    train [N, D] and queries [M, D]: of length 1. A k over N means all N.
    """
    similarity, nearest = (queries @ train.T).topk(min(max(ks), len(train)), dim=1)
    weights, voted = (similarity / temperature).exp(), labels[nearest]
    empty = queries.new_zeros(len(queries), classes)
    return {k: empty.scatter_add(1, voted[:, :k], weights[:, :k]) for k in ks}
