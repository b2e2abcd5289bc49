"""The accuracy and loss of a classifier on test images."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastimae.engine.distributed import World
from fastimae.engine.settings import Precision
from fastimae.evaluate.features import inference
from fastimae.evaluate.labels.accuracy import hits, percentages

Batches = Iterable[tuple[Tensor, Tensor]]


@torch.no_grad()
def validate(
    student: nn.Module, batches: Batches, world: World, precision: Precision
) -> dict[str, float]:
    """Return {"test_loss", "test_acc1", "test_acc5"}, in percent, over all ranks' batches.

    batches: (inputs, int64 labels) of this rank, on its device. Leaves the student in eval mode.
    """
    student.eval()
    counts = torch.zeros(4, dtype=torch.float64, device=world.device)
    for inputs, labels in batches:
        # Blocks that differ in drop_path are compiled one by one: too slow to do again for this.
        with torch.compiler.set_stance("force_eager"), inference(world.device, precision):
            logits = student(inputs).float()
        loss = F.cross_entropy(logits, labels, reduction="sum")
        counts[0] += loss
        counts[1:3] += hits(logits, labels)
        counts[3] += len(labels)
    loss, *correct, total = world.mean(counts) * world.size
    accuracies = percentages(torch.stack(correct), int(total))
    return {
        "test_loss": float(loss / total.clamp(min=1)),
        **{f"test_{name}": value for name, value in accuracies.items()},
    }
