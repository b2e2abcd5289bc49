"""Training a classifier with the engine's trainer: options, resume, and the run itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastimae.engine.assemble import resume_or_begin
from fastimae.engine.checkpoint import CheckpointError
from fastimae.engine.launcher import LaunchSettings
from fastimae.engine.plan import RunSettings
from fastimae.engine.resume import check_result_stands, go_on, other_settings
from fastimae.engine.trainer import Trainer
from fastimae.evaluate.class_names import check_same_classes
from fastimae.evaluate.classify.validation import Validated
from fastimae.evaluate.options import EvalOptions
from fastimae.evaluate.origin import check_same_weights
from fastimae.settings import ConfigError, NotNegative, PositiveInt


@dataclasses.dataclass(kw_only=True)
class TrainingOptions(RunSettings, LaunchSettings, EvalOptions):
    """Options of the tasks that train with labels; names are MAE's."""

    epochs: PositiveInt = 50
    """Passes over the training images."""
    warmup_epochs: NotNegative = 5
    """Epochs of linear warm-up."""

    def check(self) -> None:
        """As of `Settings`; raises CheckpointError where --resume names no file that is there."""
        super().check()
        if self.resume not in ("", "auto") and not Path(self.resume).exists():
            raise CheckpointError(f"--resume: there is no checkpoint {self.resume}")

    def launch(self) -> LaunchSettings:
        """How processes find each other."""
        return self


def check_apart(options: TrainingOptions, folder: Path) -> None:
    """Raise ConfigError where the run that --checkpoint is of would have to make room for this
    one, and the checkpoint with it."""
    path = options.checkpoint
    if path.resolve().parent == folder.resolve() and path.match("checkpoint-*.pth"):
        raise ConfigError(f"--output_dir {folder} is that of --checkpoint {path}: choose another")


def train(
    trainer: Trainer, options: TrainingOptions, keep: Path | None = None
) -> TrainingOptions | None:
    """Train to the end, from where --resume says. Returns the options that it was trained with,
    which are those of before if nothing was left to do; None where a signal ended it early.

    keep: what has been made for this run, which stays where files of an earlier one are moved.
    Raises CheckpointError, NonFiniteLoss.
    """
    before = resume_or_begin(trainer, _go_on, keep)
    trained = _as_before(options, before, trainer.args) if trainer.finished else options
    return trained if trainer.run() else None


def training_numbers(loader: Validated) -> dict[str, Any]:
    """acc1 and acc5 of the last epoch, which is what papers report, and the best one's."""
    last, best = loader.last, loader.best
    return {
        "acc1": last["test_acc1"],
        "acc5": last["test_acc5"],
        "loss": last["test_loss"],
        "epochs": last["epoch"] + 1,
        "best_acc1": best["test_acc1"],
        "best_epoch": best["epoch"],
    }


def _go_on(trainer: Trainer, content: dict[str, Any], path: Path) -> None:
    check_same_weights(path, content, trainer.args)
    check_same_classes(path, content, trainer.args)
    go_on(trainer, content, path, "--checkpoint")
    check_result_stands(trainer, content, path)


def _as_before(
    options: TrainingOptions, before: Mapping[str, Any], now: Mapping[str, Any]
) -> TrainingOptions:
    """The options with what a finished run was trained with; the checkpoint, whose weights are the
    same, may have moved."""
    own = {field.name for field in dataclasses.fields(options)} - {"checkpoint"}
    changed = other_settings(before, now)
    return dataclasses.replace(options, **{name: changed[name] for name in own & changed.keys()})
