"""Options of semantic segmentation, and settings of the field's two protocols as recipes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
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
OF_TRAINING = frozenset(("frozen", "head", "layers", "head_dim"))
"""Settings that a model is trained with, which --eval takes from its file."""


Layout = Literal["auto", "folders", "voc", "ade20k"]


@dataclasses.dataclass(kw_only=True)
class SegmentOptions(DenseOptions):
    """Train a head for semantic segmentation on the frozen encoder, or with it; mIoU.

    fastimae-eval segment --checkpoint mae.pth --data_path ADEChallengeData2016
    """

    task: ClassVar[str] = "segment"
    of_training = OF_TRAINING
    of_test = ("input_size", "short_side", "stride")
    tested_with = frozenset((*of_test, "data_path", "layout", "classes", "pictures"))

    data_path: Path | None = None
    """Folder of images and masks: see --layout; its train and val parts."""
    layout: Layout = "auto"
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
    short_side: PositiveInt | None = None
    """Pixels that images' shorter side is resized to: for tests, and before --min_scale and
    --max_scale. None: that of --input_size."""
    min_scale: PositiveFloat = 0.5
    """Smallest random factor on the size of training images."""
    max_scale: PositiveFloat = 2.0
    """Largest such factor."""
    color_distort: bool = True
    """Change brightness, contrast, saturation and hue of training images at random."""
    stride: PositiveInt | None = None
    """Pixels between test windows. None: two thirds of --input_size; with --eval and no
    --input_size, as in training."""
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

    def idle(self) -> Iterator[Idle]:
        """As in `Settings`."""
        yield from super().idle()
        of_encoder = ("layer_decay", "drop_path", "grad_checkpointing")
        yield Idle(self.frozen, of_encoder, "with a frozen encoder (--no_frozen trains it)")
        yield Idle(self._head == "linear", ("head_dim",), "with --head linear")

    @property
    def _head(self) -> str:
        return self.head or ("linear" if self.frozen else "fpn")

    def settled(self, patch_size: int) -> Self:
        """Return a copy in which what is None is decided, as far as training or tests need it.

        patch_size: of the model. Crops of 512 pixels that it does not divide become larger.
        """
        size = self.input_size or (-(-CROP // patch_size) * patch_size,)
        blr = FROZEN_BLR if self.frozen else TUNING_BLR
        made = dataclasses.replace(
            self,
            input_size=height_and_width(size),
            head=self._head,
            blr=blr if self.blr is None else self.blr,
            short_side=self.short_side or min(size),
            stride=self.stride or max(1, min(size) * 2 // 3),
        )
        if made.stride > min(size):
            raise ConfigError(
                f"--stride {made.stride} leaves gaps between windows of {min(size)} pixels "
                "(--input_size): make it smaller"
            )
        return made

    def as_trained(self, before: Mapping[str, Any]) -> Self:
        """As in `DenseOptions`; windows of another size have a stride of their own."""
        if self.input_size:
            before = {name: value for name, value in before.items() if name != "stride"}
        return super().as_trained(before)
