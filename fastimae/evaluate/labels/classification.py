"""The objective of a classifier.

B = batch, K = classes.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from fastimae.evaluate.training.batches import LabelledBatch
from fastimae.objectives.base import Objective


class Classification(Objective):
    """Cross entropy of a classifier, the `student`."""

    def __init__(self, student: nn.Module, smoothing: float = 0.0) -> None:
        """smoothing: of labels that are not mixed."""
        super().__init__()
        self.student, self.smoothing = student, smoothing

    def forward(self, batch: LabelledBatch) -> dict[str, Tensor]:
        """Return {"loss": fp32 scalar}."""
        # In bf16 the trainer computes with bf16 copies of the weights.
        inputs = batch.inputs.to(next(self.student.parameters()).dtype)
        logits = self.student(inputs).float()
        return {"loss": F.cross_entropy(logits, batch.targets, label_smoothing=self.smoothing)}
