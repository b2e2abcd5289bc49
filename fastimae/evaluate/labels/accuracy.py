"""Top-1 and top-5 accuracy, in percent.

N = images.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fastimae.kernels.checks import check_shape

TOP = (1, 5)


def hits(scores: Tensor, labels: Tensor) -> Tensor:
    """Count the rows whose label is among the best 1 and the best 5 classes, int64 [2].

    scores: [N, classes]; labels: int64 [N]. With fewer than 5 classes, the best 5 are all.
    Raises ValueError for shapes that do not match.
    """
    check_shape("scores", scores, "N", "classes")
    check_shape("labels", labels, len(scores))
    best = scores.topk(min(max(TOP), scores.shape[1]), dim=1).indices
    found = (best == labels[:, None]).cumsum(1)
    return torch.stack([found[:, min(k, found.shape[1]) - 1].sum() for k in TOP])


def percentages(counts: Tensor, total: int) -> dict[str, float]:
    """Return {"acc1", "acc5"} in percent, of `hits` among `total` rows."""
    values = (100 * counts.double() / max(total, 1)).tolist()
    return {f"acc{k}": value for k, value in zip(TOP, values, strict=True)}


def accuracy(scores: Tensor, labels: Tensor) -> dict[str, float]:
    """Return {"acc1", "acc5"} in percent; arguments as for `hits`."""
    return percentages(hits(scores, labels), len(labels))


def in_words(numbers: Mapping[str, Any]) -> str:
    """Return "acc1 83.60 %, acc5 96.50 %", for a log."""
    return ", ".join(f"acc{k} {numbers[f'acc{k}']:.2f} %" for k in TOP)
