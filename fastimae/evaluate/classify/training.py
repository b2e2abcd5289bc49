"""Training a classifier with the engine's trainer: options, resume, and the run itself."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fastimae.engine.checkpoint import CheckpointError, find_resume, load_checkpoint
from fastimae.engine.distributed import World
from fastimae.engine.files import RUN, args_in
from fastimae.engine.launcher import LaunchSettings
from fastimae.engine.leftovers import make_room
from fastimae.engine.parallel import parallelise
from fastimae.engine.plan import Plan, RunSettings
from fastimae.engine.resume import check_result_stands, go_on, new_run, other_settings
from fastimae.engine.trainer import Trainer
from fastimae.evaluate.class_names import check_same_classes
from fastimae.evaluate.classify.classification import Classification
from fastimae.evaluate.classify.validation import Validated
from fastimae.evaluate.options import EvalOptions, plain
from fastimae.evaluate.origin import check_same_weights
from fastimae.settings import ConfigError, NotNegative, PositiveInt

log = logging.getLogger("fastimae")


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


def settings_of(options: TrainingOptions, world: World) -> dict[str, Any]:
    """For checkpoints: the options, what a step is, and which run it is."""
    return {**plain(options), **options.step_of(world), RUN: new_run()}


def check_apart(options: TrainingOptions, folder: Path) -> None:
    """Raise ConfigError where the run that --checkpoint is of would have to make room for this
    one, and the checkpoint with it."""
    path = options.checkpoint
    if path.resolve().parent == folder.resolve() and path.match("checkpoint-*.pth"):
        raise ConfigError(f"--output_dir {folder} is that of --checkpoint {path}: choose another")


def train(
    options: TrainingOptions,
    objective: Classification,
    loader: Validated,
    optimizer: torch.optim.Optimizer,
    world: World,
    folder: Path,
    *,
    precision: str,
    args: dict[str, Any],
    keep: Path | None = None,
) -> TrainingOptions | None:
    """Train to the end, from where --resume says. Returns the options that it was trained with,
    which are those of before if nothing was left to do; None where a signal ended it early.

    args: for checkpoints, see `settings_of`. keep: what has been made for this run, which stays
    where files of an earlier one are moved. Raises CheckpointError, NonFiniteLoss.
    """
    with world.watched():
        parallel = parallelise(objective, world, "ddp", precision)
    trainer = Trainer(
        objective=objective,
        loader=loader,
        optimizer=optimizer,
        schedule=options.schedule(world),
        plan=Plan.gather(options, precision=precision, vis_freq=0),
        world=world,
        output_dir=folder,
        log_dir=options.log_dir,
        args=args,
        parallel=parallel,
        seed=options.seed,
    )  # fmt: skip
    trainer.epoch = options.start_epoch
    before = _resume_or_begin(trainer, options.resume, folder, keep)
    trained = _as_before(options, before, args) if trainer.finished else options
    if trainer.run():
        return trained
    log.info("stopped and saved: add --resume auto to go on from %s", folder)
    return None


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


def _resume_or_begin(
    trainer: Trainer, resume: str, folder: Path, keep: Path | None
) -> dict[str, Any]:
    """Returns the settings of before, {} of a new run."""
    path, content = find_resume(resume, folder), {}
    if path:
        content = load_checkpoint(path)
        check_same_weights(path, content, trainer.args)
        check_same_classes(path, content, trainer.args)
        go_on(trainer, content, path, "--checkpoint")
        check_result_stands(trainer, content, path)
    if trainer.world.is_main:
        make_room(folder, trainer.log_dir, path, keep, run=trainer.args[RUN])
    return args_in(content)


def _as_before(
    options: TrainingOptions, before: Mapping[str, Any], now: Mapping[str, Any]
) -> TrainingOptions:
    """The options with what a finished run was trained with; the checkpoint, whose weights are the
    same, may have moved."""
    own = {field.name for field in dataclasses.fields(options)} - {"checkpoint"}
    changed = other_settings(before, now)
    return dataclasses.replace(options, **{name: changed[name] for name in own & changed.keys()})
