"""Options of semantic segmentation, and settings of the field's two protocols as recipes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from fastimae.evaluate.options.dense import DenseOptions
from fastimae.settings import (
    ConfigError,
    Expert,
    Idle,
    NotNegative,
    PositiveFloat,
    PositiveInt,
    height_and_width,
)

CROP = 512
"""The field's side of crops, in pixels."""
FROZEN_BLR, TUNING_BLR = 1.6e-2, 1.6e-3
"""Rates 1e-3 and 1e-4 for the field's batch of 16."""


@dataclasses.dataclass(kw_only=True)
class SegmentOptions(DenseOptions):
    """Train a head for semantic segmentation on the frozen encoder, or with it; mIoU.

    fastimae-eval segment --checkpoint mae.pth --data_path ADEChallengeData2016
    """

    task: ClassVar[str] = "segment"

    data_path: Path | None = None
    """Folder of images and masks: see --layout; its train and val parts."""
    layout: Literal["auto", "folders", "voc", "ade20k"] = "auto"
    """folders: train/images, train/masks, val/images, val/masks (or images/train, ...). auto: by
    what is there."""
    classes: Path | None = None
    """Text file of class names, one a line, in the order of the masks' values. None: the layout's,
    classes.txt in --data_path, or numbers."""
    frozen: bool = True
    """Train the head alone: what the features hold. --no_frozen: train the encoder, too."""
    head: Literal["linear", "fpn"] | None = None
    """linear: one layer on each patch. fpn: maps at strides 4 to 32, summed. None: linear on a
    frozen encoder, else fpn."""
    layers: Expert[tuple[int, ...] | None] = None
    """Blocks that the head reads, from 0, or from the last as -1. None: the last (linear), or the
    last of each quarter (fpn)."""
    head_dim: Expert[PositiveInt] = 256
    """Channels of --head fpn."""
    input_size: tuple[PositiveInt, ...] | None = None
    """Pixels of training crops and test windows: a side, or height and width. Positions follow.
    None: 512; with --eval, as in training."""
    min_scale: PositiveFloat = 0.5
    """Smallest random size of a training image: its shorter side, as a share of --input_size's."""
    max_scale: PositiveFloat = 2.0
    """Largest such size."""
    color_jitter: NotNegative = 0.0
    """Strength of random brightness, contrast, saturation and hue. 0: off."""
    stride: PositiveInt | None = None
    """Pixels between test windows. None: two thirds of --input_size."""
    blr: NotNegative | None = None
    """Base learning rate, for an effective batch of 256. None: 0.016 for a frozen encoder, else
    0.0016, which are 1e-3 and 1e-4 for a batch of 16."""

    def check(self) -> None:
        """Raise ConfigError for values that are out of range, missing, or do not fit together."""
        super().check()
        if self.data_path is None:
            raise ConfigError("give the images and masks as --data_path FOLDER")
        self.require(
            self.min_scale <= self.max_scale,
            f"--min_scale {self.min_scale:g} is above --max_scale {self.max_scale:g}",
        )
        self.require(
            self.stride is None or self.eval or self.stride <= min(self.crop),
            f"--stride {self.stride} leaves gaps between windows of {min(self.crop)} pixels "
            "(--input_size): make it smaller",
        )

    def idle(self) -> Iterator[Idle]:
        """As in `Settings`."""
        yield from super().idle()
        of_encoder = ("layer_decay", "drop_path", "grad_checkpointing")
        yield Idle(self.frozen, of_encoder, "with a frozen encoder (--no_frozen trains it)")
        yield Idle(self._head == "linear", ("head_dim",), "with --head linear")
        of_training = ("frozen", "head", "layers", "min_scale", "max_scale", "color_jitter", "blr")
        yield Idle(self.eval, of_training, "with --eval")

    @property
    def _head(self) -> str:
        return self.head or ("linear" if self.frozen else "fpn")

    @property
    def crop(self) -> tuple[int, int]:
        """(height, width) of training crops and test windows, in pixels."""
        return height_and_width(self.input_size or CROP)

    def settled(self, **known: Any) -> Self:
        """Return a copy in which --input_size, --head, --blr and --stride are decided.

        known: settings of the model to test, which override these.
        """
        made = dataclasses.replace(self, **known)
        blr = FROZEN_BLR if made.frozen else TUNING_BLR
        return dataclasses.replace(
            made,
            input_size=made.crop,
            head=made._head,
            blr=blr if made.blr is None else made.blr,
            stride=made.stride or max(1, min(made.crop) * 2 // 3),
        )
