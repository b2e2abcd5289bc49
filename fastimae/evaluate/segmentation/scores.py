"""mIoU and accuracies of predicted masks, as the field reports them, by torchmetrics.

Intersections and unions are summed over all pixels of all images, then divided, per class.
torchmetrics' own MeanIoU averages over images first, which gives other figures; its confusion
matrix is what these are computed from.

N = images, K = classes, H, W = height and width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from fastimae.engine.distributed import World
from fastimae.evaluate.segmentation.masks import IGNORE
from fastimae.kernels.checks import check_shape
from fastimae.loaders.errors import DataError


class SegmentScores:
    """Counts pixels by their true and predicted class, exactly, over any number of images."""

    def __init__(self, classes: Sequence[str], device: torch.device | str = "cpu") -> None:
        """classes: the name of each. device: where predictions are."""
        self.classes = list(classes)
        # Ranks add their counts in `compute`, not in every update.
        self._matrix = MulticlassConfusionMatrix(
            len(self.classes), ignore_index=IGNORE, validate_args=False, sync_on_compute=False
        ).to(device)

    def update(self, predicted: Tensor, mask: Tensor) -> None:
        """Count the pixels of some images.

        predicted: logits, float [N, K, H, W], or numbers of classes, integer [N, H, W].
        mask: the truth, integer [N, H, W]; pixels that are `IGNORE` there do not count.
        Raises ValueError for shapes that do not match.
        """
        if predicted.is_floating_point():
            check_shape("predicted", predicted, "N", len(self.classes), "H", "W")
            predicted = predicted.argmax(1)
        check_shape("mask", mask, *predicted.shape)
        self._matrix.update(predicted, mask)

    def compute(self, world: World) -> dict[str, Any]:
        """Return the scores in percent over the images of all ranks, the same on each of them.

        {"mIoU": mean IoU of the classes that occur, "aAcc": accuracy of pixels, "mAcc": mean
        accuracy of the classes that are in the truth, "IoU": {class: IoU, None if it does not
        occur}, "absent": [classes that neither truth nor prediction have]}. world: of the ranks.
        Raises DataError if no pixel counts.
        """
        counts_KK = sum(world.all(self._matrix.compute())).double().cpu()
        return scores_of(counts_KK, self.classes)


def scores_of(counts_KK: Tensor, classes: Sequence[str]) -> dict[str, Any]:
    """Return the scores, see `SegmentScores.compute`, of a confusion matrix.

    counts_KK: float64, pixels by true (rows) and predicted class. classes: the name of each.
    """
    if not counts_KK.any():
        raise DataError(
            f"no pixel of the masks to test on counts: all are {IGNORE}, or none is read"
        )
    right_K, truth_K, predicted_K = counts_KK.diag(), counts_KK.sum(1), counts_KK.sum(0)
    union_K = truth_K + predicted_K - right_K
    iou_K = 100 * right_K / union_K  # 0 / 0 is NaN: the class does not occur
    named = dict(zip(classes, iou_K.tolist(), strict=True))
    return {
        "mIoU": float(iou_K.nanmean()),
        "aAcc": float(100 * right_K.sum() / truth_K.sum()),
        "mAcc": float((100 * right_K / truth_K).nanmean()),
        "IoU": {name: value if value == value else None for name, value in named.items()},
        "absent": [name for name, value in named.items() if value != value],
    }


def in_words(scores: dict[str, Any]) -> str:
    """Return "mIoU 48.10 %, aAcc 83.20 %, mAcc 59.00 %", and which classes do not occur."""
    text = ", ".join(f"{name} {scores[name]:.2f} %" for name in ("mIoU", "aAcc", "mAcc"))
    absent = scores["absent"]
    if not absent:
        return text
    some = ", ".join(absent[:3]) + (", ..." if len(absent) > 3 else "")
    return f"{text} (left out, as they do not occur: {len(absent)} classes, {some})"
