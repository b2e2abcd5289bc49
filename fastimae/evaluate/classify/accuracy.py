"""How often the right class is among the first k, in percent."""

from __future__ import annotations

import torch
from torch import Tensor

from fastimae.kernels.checks import check_shape

TOP = (1, 5)


def hits(scores: Tensor, labels: Tensor) -> Tensor:
    """Number of rows whose label is among the best 1 and the best 5 classes, int64 [2].

    scores: [N, classes]; labels: int64 [N]. With fewer than 5 classes, best 5 means all.
    Raises ValueError where they do not fit.
    """
    check_shape("scores", scores, "N", "classes")
    check_shape("labels", labels, len(scores))
    best = scores.topk(min(max(TOP), scores.shape[1]), dim=1).indices
    found = (best == labels[:, None]).cumsum(1)
    return torch.stack([found[:, min(k, found.shape[1]) - 1].sum() for k in TOP])


def percentages(counts: Tensor, total: int) -> dict[str, float]:
    """{"acc1": ..., "acc5": ...} of `hits` among `total` rows, in percent."""
    values = (100 * counts.double() / max(total, 1)).tolist()
    return {f"acc{k}": value for k, value in zip(TOP, values, strict=True)}


def accuracy(scores: Tensor, labels: Tensor) -> dict[str, float]:
    """{"acc1": ..., "acc5": ...} in percent; arguments as for `hits`."""
    return percentages(hits(scores, labels), len(labels))
