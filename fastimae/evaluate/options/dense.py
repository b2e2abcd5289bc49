"""Options of segment and detect: encoders that are trained for maps, on images of any size."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import tyro

from fastimae.engine.settings import StepSettings
from fastimae.evaluate.options.finetune import TuningOptions
from fastimae.evaluate.options.labels import BEST, TrainingOptions
from fastimae.evaluate.options.trained import TrainedOptions
from fastimae.loaders.settings import ReadSettings
from fastimae.settings import (
    ConfigError,
    Count,
    Expert,
    Free,
    Idle,
    NotNegative,
    PositiveInt,
    PositiveShare,
    Share,
    height_and_width,
)


@dataclasses.dataclass(kw_only=True)
class DenseOptions(StepSettings, TrainedOptions):
    """How the model is trained, and tested."""

    task: ClassVar[str] = ""
    """The task's name, which its folder has, too."""

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
        if self.checkpoint is None and not self.eval:
            raise ConfigError("give the pre-trained model as --checkpoint FILE")
        if self.checkpoint is None and not self.output_dir and not self._named:
            raise ConfigError("--eval: name the model as --resume FILE or --output_dir DIR")

    def idle(self) -> Iterator[Idle]:
        """As in `Settings`."""
        yield from super().idle()
        of_training = ("random_init", "hflip", "layer_decay", "drop_path")
        yield Idle(self.eval, of_training, "with --eval")

    @property
    def _named(self) -> bool:
        """Whether --resume names a file."""
        return self.resume not in ("", "auto")

    def folder(self, task: str) -> Path:
        """Return the folder for results; with --eval and no other, that of the --resume file."""
        if self.checkpoint is None and self.output_dir is None:
            return Path(self.resume).parent
        return super().folder(task)

    def source(self) -> Path:
        """Return the checkpoint; with --eval the model: --resume FILE, else the run's best."""
        if not self.eval:
            return super().source()
        return Path(self.resume) if self._named else self.folder(self.task) / BEST

    def of_model(self) -> dict[str, Any]:
        """Return the flags for the model in the file; --input_size is for the crops."""
        flags = super().of_model()
        return {**flags, "img_size": None, "hints": flags["hints"].without("input_size")}
