"""fastimae-eval segment: semantic segmentation on a frozen encoder, or by fine-tuning it."""

from __future__ import annotations

from fastimae.evaluate.dense.run import run_dense
from fastimae.evaluate.options.segment import SegmentOptions
from fastimae.evaluate.segmentation.task import SegmentTask


def run(options: SegmentOptions) -> None:
    """Write log.txt, checkpoints, scenes.png, iou.png, results.json with mIoU; --eval: in eval/."""
    run_dense(SegmentTask(), options)
