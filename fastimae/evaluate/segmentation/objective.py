"""The loss of segmentation: cross entropy of each pixel that counts.

B = batch, C = channels, H, W = height and width, K = classes.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from fastimae.evaluate.segmentation.masks import IGNORE
from fastimae.evaluate.training.batches import LabelledBatch
from fastimae.objectives.base import Objective


class Segmentation(Objective):
    """Cross entropy of a model that maps images to logits of pixels, the `student`."""

    def __init__(self, student: nn.Module) -> None:
        """student: (images [B, C, H, W], key [B]) -> logits fp32 [B, K, H, W]."""
        super().__init__()
        self.student = student

    def forward(self, batch: LabelledBatch) -> dict[str, Tensor]:
        """Return {"loss": fp32 scalar}: the mean over pixels that are not `IGNORE`, 0 without any.

        batch: inputs float [B, C, H, W] normalised, targets integer [B, H, W].
        """
        logits_BKHW = self.student(batch.inputs, batch.key)
        total = F.cross_entropy(
            logits_BKHW, batch.targets.long(), ignore_index=IGNORE, reduction="sum"
        )
        return {"loss": total / (batch.targets != IGNORE).sum().clamp(min=1)}
