"""Semantic segmentation as a dense task: its scenes, model, views and pictures."""

from __future__ import annotations

from typing import Any

from fastimae.engine.distributed import World
from fastimae.engine.precision import resolve_precision
from fastimae.engine.resume import SEGMENTER
from fastimae.evaluate.dense.task import DenseTask, Outcome
from fastimae.evaluate.options.segment import SegmentOptions
from fastimae.evaluate.results import Results
from fastimae.evaluate.segmentation.layouts import Split
from fastimae.evaluate.segmentation.model import Segmenter, build_segmenter
from fastimae.evaluate.segmentation.objective import Segmentation
from fastimae.evaluate.segmentation.opened import load_trained, match
from fastimae.evaluate.segmentation.pictures import draw_class_iou
from fastimae.evaluate.segmentation.scenes import Scenes, open_scenes
from fastimae.evaluate.segmentation.scores import in_words
from fastimae.evaluate.segmentation.testing import NAMES, Tester
from fastimae.evaluate.segmentation.transforms import SegmentTransform
from fastimae.evaluate.training.sample_loader import stacked
from fastimae.log import log
from fastimae.models import MaskedAutoencoder


class SegmentTask(DenseTask):
    """Trains a head, and the encoder unless it is frozen."""

    kind, scores, tester = SEGMENTER, NAMES, Tester
    collate, in_words = staticmethod(stacked), staticmethod(in_words)
    match, load_trained = staticmethod(match), staticmethod(load_trained)

    def open(self, options: SegmentOptions, split: Split) -> Scenes:
        """As in `DenseTask`."""
        return open_scenes(options.data_path, split, options.layout, options.classes)

    def build(
        self, options: SegmentOptions, encoder: MaskedAutoencoder, scenes: Scenes
    ) -> Segmenter:
        """As in `DenseTask`."""
        return build_segmenter(
            encoder, len(scenes.classes),
            img_size=options.input_size, head=options.head, layers=options.layers,
            head_dim=options.head_dim, frozen=options.frozen, drop_path=options.drop_path,
        )  # fmt: skip

    def transform(self, options: SegmentOptions, encoder: MaskedAutoencoder) -> SegmentTransform:
        """As in `DenseTask`."""
        return SegmentTransform(
            options.input_size, (options.min_scale, options.max_scale),
            mean=encoder.mean, std=encoder.std, seed=options.seed, short_side=options.short_side,
            flip=0.5 if options.hflip else 0.0, jitter=options.color_distort,
        )  # fmt: skip

    def objective(self, student: Segmenter, precision: str) -> Segmentation:
        """As in `DenseTask`; the engine computes in the precision."""
        return Segmentation(student)

    def log_sizes(
        self, options: SegmentOptions, student: Segmenter, scenes: Scenes, val: Scenes, world: World
    ) -> None:
        """As in `DenseTask`."""
        trained = sum(p.numel() for p in student.parameters() if p.requires_grad)
        log.info(
            "%s, %s head on blocks %s: %.3g million parameters to train; %d images to train on, "
            "%d to test; lr %.3g, %s on %s",
            "frozen encoder" if options.frozen else "encoder", options.head,
            " ".join(map(str, student.encoder.layers)), trained / 1e6, len(scenes), len(val),
            options.peak_lr(world), resolve_precision(options.precision, world.device),
            world.device,
        )  # fmt: skip

    def report(self, outcome: Outcome, results: Results) -> dict[str, Any]:
        """Draw predictions, and the IoU of each class."""
        tester, scores = outcome.tester, outcome.tester.scores
        title = f"IoU of each class; mIoU {scores['mIoU']:.2f} %"
        draw_class_iou(scores["IoU"], results.picture("iou.png"), title)
        if tester.options.pictures:
            tester.draw(results.picture("scenes.png"), in_words(scores))
        return {}
