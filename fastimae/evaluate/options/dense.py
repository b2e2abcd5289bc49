"""Options of segment and detect: encoders that are trained for maps, on images of any size."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import tyro

from fastimae.engine.settings import StepSettings
from fastimae.evaluate.options.finetune import TuningOptions
from fastimae.evaluate.options.labels import TrainingOptions
from fastimae.evaluate.options.retested import Retested
from fastimae.evaluate.options.trained import TrainedOptions
from fastimae.loaders.settings import ReadSettings
from fastimae.settings import (
    Count,
    Expert,
    Free,
    NotNegative,
    PositiveInt,
    PositiveShare,
    Share,
    height_and_width,
)


@dataclasses.dataclass(kw_only=True)
class DenseOptions(Retested, StepSettings, TrainedOptions):
    """How the model is trained, and tested."""

    of_training: ClassVar[frozenset[str]]
    """Settings that a model is trained with, which --eval takes from its file."""
    of_test: ClassVar[tuple[str, ...]]
    """Settings of the test, which --eval takes from the file unless they are given."""

    checkpoint: Annotated[Path | None, tyro.conf.arg(aliases=["--finetune"])] = None
    """Checkpoint of fastimae-train, MAE's code, i-MAE, timm or Hugging Face; its encoder is used.
    Not needed with --eval."""
    eval: bool = False
    """Only test the model of --resume; without --resume, that of output_dir/checkpoint-best.pth."""
    recipe: Free[str | None] = None
    """Name of a recipe to start from; other flags override its settings."""
    input_size: tuple[PositiveInt, ...] | None = None
    """Size of training crops in pixels: a side, or height and width. Positions follow."""
    epochs: PositiveInt = TrainingOptions.epochs
    """Passes over the training images."""
    warmup_epochs: NotNegative = 1
    """Epochs of linear warm-up."""
    batch_size: PositiveInt = 16
    """Images per GPU and accumulation step; effective batch: this x accum_iter x GPUs."""
    drop_path: Share = TuningOptions.drop_path
    """Share of residual branches that the last block drops; the first drops none."""
    layer_decay: PositiveShare = TuningOptions.layer_decay
    """Learning rate of each layer, as a share of the next one's; the head's is undiminished."""
    min_lr: Expert[NotNegative] = TuningOptions.min_lr
    """Learning rate at the end of the half-cosine."""
    compile: Expert[Free[Literal["auto", "on", "off"]]] = TuningOptions.compile
    """torch.compile for the transformer blocks; auto: on a GPU. Not measured yet."""
    hflip: bool = TuningOptions.hflip
    """Flip half of the images horizontally."""
    pin_mem: Expert[Free[bool]] = ReadSettings.pin_mem
    """Page-locked batches, for faster copies to a GPU."""
    pictures: Free[Count] = 8
    """Number of test images to draw predictions of."""

    def check(self) -> None:
        """Raise ConfigError for values that are out of range, missing, or do not fit together."""
        super().check()
        if self.input_size:
            height_and_width(self.input_size)

    def of_model(self) -> dict[str, Any]:
        """Return the flags for the model in the file; --input_size is for the crops."""
        flags = super().of_model()
        return {**flags, "img_size": None, "hints": flags["hints"].without("input_size")}

    def as_trained(self, before: Mapping[str, Any]) -> Self:
        """Return a copy with the settings of the model to test, except for those of the test.

        before: the settings in its file.
        """
        given = {n: value for n in self.of_test if (value := getattr(self, n)) is not None}
        names = {*self.of_training, *self.of_test} & before.keys()
        return dataclasses.replace(self, **{name: before[name] for name in names} | given)
