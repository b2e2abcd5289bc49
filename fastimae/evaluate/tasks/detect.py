"""fastimae-eval detect: object detection and instance segmentation by Mask R-CNN on the encoder."""

from __future__ import annotations

from fastimae.evaluate.dense.run import run_dense
from fastimae.evaluate.detection.task import DetectTask
from fastimae.evaluate.options.detect import DetectOptions


def run(options: DetectOptions) -> None:
    """Write log.txt, checkpoints, pictures, results.json with AP and AP_mask; --eval: in eval/."""
    run_dense(DetectTask(), options)
