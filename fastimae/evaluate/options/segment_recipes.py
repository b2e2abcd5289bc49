"""Settings of semantic segmentation on public data sets, `--recipe NAME` of segment.

Each docstring says which values are a publication's, and which are ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Settings = dict[str, Any]


def ade20k_linear() -> Settings:
    """Train a linear layer on the frozen encoder, ADE20K: what its patches hold.

    Command: fastimae-eval segment --recipe ade20k_linear --checkpoint mae.pth
             --data_path ADEChallengeData2016
    Paper: the protocol is DINOv2's (section 7.4, "linear"): one layer on the patches of the last
           block, whose logits are enlarged to the image; crops of 512 pixels.
    Ours: batch 16, AdamW at 1e-3 with weight decay 1e-4 for 32 epochs, which are 40,000 steps; a
          half-cosine; a batch normalisation without affine part before the layer.
    Hardware: one GPU; on 8, add --batch_size 2.
    Expected: no figure for a MAE in its paper. Not run here.
    """
    return {
        "frozen": True, "head": "linear", "epochs": 32, "batch_size": 16, "blr": 1.6e-2,
        "weight_decay": 1e-4, "warmup_epochs": 1,
    }  # fmt: skip


def ade20k_finetune() -> Settings:
    """Fine-tune with a pyramid head, ADE20K: MAE's schedule, a lighter head than its UPerNet.

    Command: torchrun --nproc_per_node=8 --no-python fastimae-eval segment
             --recipe ade20k_finetune --checkpoint mae.pth --data_path ADEChallengeData2016
    Paper: end to end, 100 epochs, batch 16 (MAE, appendix A.4), which searches the learning rate.
    Ours: the head, a rate of 1e-4 with layer decay 0.65, weight decay 0.05 and drop path 0.1, as
          in fine-tuning of ViT-B; crops of 512 pixels; absolute positions.
    Hardware: written for 8 GPUs, 2 images each; on one add --batch_size 16.
    Expected: 48.1 mIoU in the paper, for ViT-B with UPerNet; this head is not UPerNet, and no
              figure of it is known. Not run here.
    """
    return {
        "frozen": False, "head": "fpn", "epochs": 100, "batch_size": 2,
        "blr": 1.6e-3, "weight_decay": 0.05, "layer_decay": 0.65, "drop_path": 0.1,
    }  # fmt: skip


def voc_linear() -> Settings:
    """Train a linear layer on the frozen encoder, VOC 2012: as ade20k_linear, in 50 epochs.

    Command: fastimae-eval segment --recipe voc_linear --checkpoint mae.pth --data_path VOCdevkit
    Paper: DINOv2 tests on VOC 2012 in the same way (section 7.4).
    Ours: as in ade20k_linear. With SegmentationClassAug, 10,582 images train and not 1,464.
    Hardware: one GPU.
    Expected: no figure for a MAE in its paper. Not run here.
    """
    return {**ade20k_linear(), "epochs": 50}


RECIPES: dict[str, Callable[[], Settings]] = {
    recipe.__name__: recipe for recipe in (ade20k_linear, ade20k_finetune, voc_linear)
}
