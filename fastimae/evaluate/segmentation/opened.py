"""The model of a checkpoint, and whether scenes have its classes: for --eval."""

from __future__ import annotations

from fastimae.engine.checkpoint import load_weights
from fastimae.engine.resume import SEGMENTER
from fastimae.evaluate.dense.saved import empty_encoder, open_saved
from fastimae.evaluate.options.segment import OF_TRAINING, SegmentOptions
from fastimae.evaluate.segmentation.model import Segmenter, build_segmenter
from fastimae.evaluate.segmentation.scenes import Scenes
from fastimae.loaders.errors import DataError
from fastimae.loaders.sources.describe import in_short
from fastimae.log import log
from fastimae.settings import height_and_width


def match(val: Scenes, classes: list[str], of: str) -> Scenes:
    """Return scenes to test on. Raises DataError if they have other classes than the model.

    classes: the model's. of: where those are from, for the error.
    """
    if val.classes != classes:
        raise DataError(
            f"{val.source} has {len(val.classes)} classes ({in_short(val.classes)}), and {of} "
            f"{len(classes)} ({in_short(classes)}): name those of the model with --classes"
        )
    return val


def load_trained(options: SegmentOptions) -> tuple[Segmenter, list[str], SegmentOptions]:
    """Return the model that --eval tests, the names of its classes, and the options of the test.

    Its file is enough. Raises CheckpointError for other files.
    """
    path = options.source()
    weights, before, classes = open_saved(path, SEGMENTER, OF_TRAINING)
    options = options.as_trained(before)
    student = build_segmenter(
        empty_encoder(weights, before, path), len(classes),
        img_size=height_and_width(before["input_size"]), drop_path=0.0,
        **{name: before[name] for name in OF_TRAINING},
    )  # fmt: skip
    load_weights(student, weights, path)
    log.info("%s: %s head, %d classes (%s)", path, before["head"], len(classes), in_short(classes))
    return student, classes, options.settled(student.encoder.patch_size)
