"""Detection as a dense task: its images, detector, views, pictures and files."""

from __future__ import annotations

import dataclasses
from typing import Any

from fastimae.engine.distributed import World
from fastimae.engine.precision import resolve_precision
from fastimae.engine.resume import DETECTOR
from fastimae.evaluate.dense.task import DenseTask, Outcome
from fastimae.evaluate.detection.coco import CocoScenes, open_coco
from fastimae.evaluate.detection.jitter import LargeScaleJitter
from fastimae.evaluate.detection.layout import Split
from fastimae.evaluate.detection.mask_rcnn import MaskRCNN
from fastimae.evaluate.detection.objective import Detection
from fastimae.evaluate.detection.opened import load_trained, make_detector
from fastimae.evaluate.detection.report import draw, in_words
from fastimae.evaluate.detection.targets import collate_targets
from fastimae.evaluate.detection.testing import Tester
from fastimae.evaluate.options.detect import DetectOptions
from fastimae.evaluate.results import Results
from fastimae.log import log
from fastimae.models import MaskedAutoencoder

DETECTIONS = "detections.json"


class DetectTask(DenseTask):
    """Trains a Mask R-CNN, the encoder included. The best epoch is that of boxes: all have them."""

    kind, scores, tester = DETECTOR, ("AP", "AP_mask"), Tester
    collate, in_words = staticmethod(collate_targets), staticmethod(in_words)
    objective, load_trained = staticmethod(Detection), staticmethod(load_trained)

    def open(self, options: DetectOptions, split: Split) -> CocoScenes:
        """As in `DenseTask`."""
        return open_coco(options.coco, split, getattr(options, f"{split}_annotations"))

    def match(self, val: CocoScenes, classes: list[str], of: str) -> CocoScenes:
        """As in `DenseTask`, by name: classes have the numbers that training gave them."""
        return val.with_classes(classes)

    def build(
        self, options: DetectOptions, encoder: MaskedAutoencoder, scenes: CocoScenes
    ) -> MaskRCNN:
        """As in `DenseTask`."""
        return make_detector(
            encoder, len(scenes.classes), options, options.input_size, masks=scenes.has_masks
        )

    def transform(self, options: DetectOptions, encoder: MaskedAutoencoder) -> LargeScaleJitter:
        """As in `DenseTask`."""
        return LargeScaleJitter(
            options.side, (options.min_scale, options.max_scale),
            mean=encoder.mean, std=encoder.std, seed=options.seed,
            flip=0.5 if options.hflip else 0.0,
        )  # fmt: skip

    def how(self, options: DetectOptions, precision: str) -> DetectOptions:
        """As in `DenseTask`; `Detection` computes in bf16 itself."""
        return dataclasses.replace(options, precision="fp16" if precision == "fp16" else "fp32")

    def log_sizes(
        self, options: DetectOptions, student: MaskRCNN, scenes: CocoScenes, val: CocoScenes,
        world: World,
    ) -> None:  # fmt: skip
        """As in `DenseTask`."""
        windows = options.window if student.encoder.windowed else 0
        if options.window not in (windows, DetectOptions.window) and world.is_main:
            log.warning("--window %d has no effect: all %d blocks of the encoder attend to all "
                        "patches, unless --global_blocks names fewer",
                        options.window, student.encoder.depth)  # fmt: skip
        encoder = sum(p.numel() for p in student.encoder.parameters() if p.requires_grad)
        heads = sum(p.numel() for p in student.parameters() if p.requires_grad) - encoder
        log.info(
            "Mask R-CNN of %.3g million parameters on an encoder of %.3g million, %s; %d images to "
            "train on, %d to test; effective batch %d, lr %.3g, %s on %s",
            heads / 1e6, encoder / 1e6,
            f"windows of {windows} patches" if windows else "global attention",
            len(scenes), len(val), options.effective_batch(world), options.peak_lr(world),
            resolve_precision(options.precision, world.device), world.device,
        )  # fmt: skip

    def report(self, outcome: Outcome, results: Results) -> dict[str, Any]:
        """Draw pictures, and write what was found with --save_detections."""
        draw(outcome.tester, results)
        if outcome.options.save_detections:
            outcome.tester.counted.write(results.folder / DETECTIONS)
        return {"by_class": outcome.tester.counted.by_class()}
