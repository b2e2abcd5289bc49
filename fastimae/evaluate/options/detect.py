"""Options of object detection and instance segmentation."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Self

from fastimae.evaluate.options.dense import DenseOptions
from fastimae.evaluate.options.detector import DetectorSettings
from fastimae.settings import (
    ConfigError,
    Count,
    Expert,
    Free,
    Idle,
    NotNegative,
    PositiveFloat,
    PositiveInt,
    PositiveShare,
)

SIDE = 1024
"""The field's side of images, in pixels."""
IMAGES = 8
"""In a step of each of eight GPUs: 64, as ViTDet's and its predecessor's."""
JITTER = (0.1, 2.0)
"""The field's sizes of training images, as shares of the side."""
LARGEST_STRIDE = 32
"""Images consist of whole cells of the coarsest map that boxes are pooled from."""
OF_TRAINING = frozenset(("window", "global_blocks", "anchor_sizes", "head_channels", "proposals"))
"""Settings that a detector is trained with, which --eval takes from its file."""


@dataclasses.dataclass(kw_only=True)
class DetectOptions(DetectorSettings, DenseOptions):
    """Train a Mask R-CNN on the encoder, on COCO or data in its format; AP of boxes and masks.

    fastimae-eval detect --checkpoint mae.pth --coco coco
    """

    task: ClassVar[str] = "detect"
    of_training = OF_TRAINING
    of_test = ("input_size", "score_threshold", "detections")
    tested_with = frozenset((*of_test, "coco", "val_annotations", "pictures", "save_detections"))

    coco: Path | None = None
    """Folder with annotations/instances_*.json and images, as COCO's or Roboflow's (train and
    val)."""
    train_annotations: Expert[Path | None] = None
    """The annotation file to train on. None: found in --coco."""
    val_annotations: Expert[Path | None] = None
    """The annotation file to test on. None: found in --coco."""
    input_size: tuple[PositiveInt, ...] | None = None
    """Side of the square that images are resized into, in pixels. None: 1024; with --eval, as in
    training."""
    window: Count = 14
    """Side, in patches, of the windows that blocks attend within; 0: all attend to all."""
    global_blocks: Expert[tuple[int, ...] | None] = None
    """Blocks that attend to all patches, with --window. None: the last of each quarter."""
    epochs: PositiveInt = 45
    """Passes over the training images."""
    warmup_epochs: NotNegative = 0.25
    """Epochs of linear warm-up."""
    batch_size: PositiveInt = IMAGES
    """Images per GPU and accumulation step; effective batch: this x accum_iter x GPUs."""
    blr: NotNegative = 4e-4
    """Base learning rate, for an effective batch of 256: 1e-4 for 64."""
    weight_decay: NotNegative = 0.1
    """Weight decay of matrices; biases and norms have none."""
    layer_decay: PositiveShare = 0.7
    """Learning rate of each layer, as a share of the next one's; the heads' is undiminished."""
    min_scale: PositiveFloat = JITTER[0]
    """Smallest random size of an image, its longer side, as a share of --input_size."""
    max_scale: PositiveFloat = JITTER[1]
    """Largest such size."""
    save_detections: Free[bool] = False
    """Write detections.json, with all that is found, in COCO's form of results."""

    def check(self) -> None:
        """Raise ConfigError for values that are out of range, missing, or do not fit together."""
        super().check()
        if self.coco is None:
            raise ConfigError("give images and annotations as --coco FOLDER")
        self.require(
            len(set(self.input_size or (SIDE,))) == 1,
            "--input_size: images are resized into squares, give one side",
        )
        self.require(
            self.min_scale <= self.max_scale,
            f"--min_scale {self.min_scale:g} is above --max_scale {self.max_scale:g}",
        )

    def idle(self) -> Iterator[Idle]:
        """As in `Settings`."""
        yield from super().idle()
        yield Idle(not self.window, ("global_blocks",), "with --window 0")

    @property
    def side(self) -> int:
        """The side of the squares, in pixels."""
        return (self.input_size or (SIDE,))[0]

    def settled(self, patch_size: int) -> Self:
        """Return a copy in which what is None is decided, as far as training or tests need it.

        patch_size: of the model. Raises ConfigError unless --input_size is a multiple of it and of
        the largest stride; a size that is not given becomes one.
        """
        multiple = math.lcm(patch_size, LARGEST_STRIDE)
        side = self.side if self.input_size else -(-SIDE // multiple) * multiple
        if side % multiple:
            near = sorted({max(side // multiple, 1) * multiple, (side // multiple + 1) * multiple})
            raise ConfigError(
                f"--input_size {side} is not a multiple of {multiple}, of patches of {patch_size} "
                f"pixels and the stride {LARGEST_STRIDE}: use {' or '.join(map(str, near))}"
            )
        made = dataclasses.replace(self, input_size=(side, side))
        made.settle_detector()
        return made
