"""The detector of a run: a fresh one to train, or that of a checkpoint for --eval."""

from __future__ import annotations

from fastimae.engine.checkpoint import load_weights
from fastimae.engine.resume import DETECTOR
from fastimae.evaluate.dense.backbone import DenseEncoder
from fastimae.evaluate.dense.saved import empty_encoder, open_saved
from fastimae.evaluate.detection.mask_rcnn import MaskRCNN
from fastimae.evaluate.options.detect import OF_TRAINING, DetectOptions
from fastimae.loaders.sources.describe import in_short
from fastimae.log import log
from fastimae.models import MaskedAutoencoder
from fastimae.settings import config_errors

_OF_MASKS = "roi_heads.mask_predictor.mask_fcn_logits.weight"


def make_detector(
    encoder: MaskedAutoencoder,
    classes: int,
    options: DetectOptions,
    size: tuple[int, int],
    *,
    masks: bool,
) -> MaskRCNN:
    """Return a Mask R-CNN with fresh heads on a pre-trained encoder, which is copied.

    classes: of objects. options: settled. size: (height, width) in pixels, that positions are
    resized for. masks: whether it finds masks, or boxes alone. Raises ConfigError for blocks that
    the encoder does not have.
    """
    with config_errors():
        dense = DenseEncoder(
            encoder, size,
            window=options.window or None, global_blocks=options.global_blocks,
            drop_path=options.drop_path,
        )  # fmt: skip
    return MaskRCNN(dense, classes, options, masks=masks)


def load_trained(options: DetectOptions) -> tuple[MaskRCNN, list[str], DetectOptions]:
    """Return the detector that --eval tests, the names of its classes, and the test's options.

    Its file is enough. Raises CheckpointError for other files.
    """
    path = options.source()
    weights, before, classes = open_saved(path, DETECTOR, OF_TRAINING)
    encoder = empty_encoder(weights, before, path)
    options = options.as_trained(before).settled(encoder.patch_size)
    size, masks = tuple(before["input_size"]), _OF_MASKS in weights
    student = make_detector(encoder, len(classes), options, size, masks=masks)
    load_weights(student, weights, path)
    log.info("%s: Mask R-CNN, %d classes (%s)", path, len(classes), in_short(classes))
    return student, classes, options
