"""The losses of Mask R-CNN as an objective of the engine's trainer.

B = batch, C = channels, S = side of the images.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastimae.engine.precision import DTYPES
from fastimae.evaluate.detection.mask_rcnn import MaskRCNN
from fastimae.evaluate.detection.targets import unpack_target
from fastimae.evaluate.training.batches import LabelledBatch
from fastimae.objectives.base import Objective

PARTS = {
    "loss_objectness": "rpn_class",
    "loss_rpn_box_reg": "rpn_box",
    "loss_classifier": "box_class",
    "loss_box_reg": "box",
    "loss_mask": "mask",
}
"""torchvision's names of the losses, and ours in logs."""


class Detection(Objective):
    """The sum of Mask R-CNN's five losses; the detector is the `student`."""

    title = "Mask R-CNN"
    has_decoder = False

    def __init__(self, student: MaskRCNN, precision: str) -> None:
        """precision: "bf16", "fp16" or "fp32", of convolutions and attention.

        bf16 is autocast here, with fp32 parameters: the trainer's own bf16, which casts the weights
        themselves, would compute boxes in bf16, too. fp16 is autocast by the trainer, which also
        scales the loss.
        """
        super().__init__()
        self.student, self.precision = student, precision

    def forward(self, batch: LabelledBatch) -> dict[str, Tensor]:
        """Return {"loss", "rpn_class", "rpn_box", "box_class", "box", "mask"}, fp32 scalars.

        batch: inputs float [B, C, S, S] normalised; targets of `collate_targets`; a key, which
        decides what anchors and regions are looked at. Without masks, there is no "mask". Unlike
        other objectives, this one waits for the device: the number of proposals is not known.
        """
        size = batch.inputs.shape[-2:]
        targets = [unpack_target(target, size) for target in batch.targets]
        with autocast(batch.inputs.device, self.precision):
            losses = self.student(batch.inputs, targets, batch.key)
        parts = {PARTS[name]: loss for name, loss in losses.items()}
        return {"loss": torch.stack(list(parts.values())).sum(), **parts}


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the context in which a `MaskRCNN` computes on a device.

    precision: "bf16", "fp16" or "fp32".
    """
    return torch.autocast(device.type, DTYPES[precision], enabled=precision != "fp32")
