"""A training with labels, of any task, by the engine's trainer: epochs, validation, resuming."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from fastimae.engine.assemble import assemble, checkpoint_args, resume_or_begin
from fastimae.engine.build_step import MakeOptimizer, StepSettings
from fastimae.engine.checkpoint_file import changed_settings
from fastimae.engine.distributed import World
from fastimae.engine.resume import check_results_still_apply, resume_trainer
from fastimae.engine.run_file import RunFile
from fastimae.engine.trainer import Trainer
from fastimae.evaluate.options.trained import LabelledRunSettings
from fastimae.evaluate.training.batches import EpochLoader
from fastimae.evaluate.training.checks import check_same_run
from fastimae.evaluate.training.validation import Measure, ValidatingLoader
from fastimae.objectives.base import Objective

Options = TypeVar("Options", bound=LabelledRunSettings)


class Trained(NamedTuple, Generic[Options]):
    """The outcome of a finished run."""

    last: dict[str, Any]
    """What `measure` returned after the last epoch, and "epoch", from 0."""
    best: dict[str, Any]
    """The same of the best epoch that was tested; the last one if no epoch's value was a number."""
    options: Options
    """The options that it was trained with; those of the earlier run if no epoch was left."""


def train_with_labels(
    options: Options,
    objective: Objective,
    loader: EpochLoader,
    world: World,
    *,
    measure: Measure,
    best: str,
    tested_on: int,
    how: StepSettings,
    workers: int,
    optimizer: MakeOptimizer,
    output_dir: Path,
    run_file: RunFile,
    settings: Mapping[str, Any],
    keep: Path | None = None,
) -> Trained[Options] | None:
    """Train and validate epoch by epoch, from where --resume says; None if a signal ended it early.

    measure: tests `objective.student` on all ranks, every --val_freq epochs, and returns entries of
    its log line; `best` names the one that is largest in checkpoint-best.pth. tested_on: digest of
    the test images. loader: see `SampleLoader`. how, workers, optimizer: see `assemble`; batches
    may be of any form, as `StepSettings` records no CUDA graphs. run_file: see `Trainer`.
    settings: to keep in checkpoints; those that `check_same_run` names have to match on resuming.
    keep: a file or folder made for this run, which stays when the files of an earlier run are
    moved. Raises CheckpointError, NonFiniteLoss.
    """
    args = checkpoint_args(settings, options, world)
    validating = ValidatingLoader(
        loader, objective.student, measure, world,
        by=best, is_due=options.tests_after, output_dir=output_dir, args=args, tested_on=tested_on,
    )  # fmt: skip
    trainer = assemble(
        objective, validating, world,
        run=(options,), step_settings=how, workers=workers, output_dir=output_dir, args=args,
        optimizer=optimizer, run_file=run_file,
    )  # fmt: skip
    before = resume_or_begin(trainer, _resume, keep)
    if trainer.finished and validating.last.get("epoch") != validating.epoch:
        validating.report()  # of an epoch that was not to be the last one
    trained = _as_before(options, before, trainer.args) if trainer.finished else options
    if not trainer.run():
        return None
    return Trained(validating.last, validating.best or validating.last, trained)


def _resume(trainer: Trainer, content: dict[str, Any], path: Path) -> None:
    check_same_run(path, content, trainer.args)
    resume_trainer(trainer, content, path, "--checkpoint")
    check_results_still_apply(trainer, content, path)


def _as_before(options: Options, before: Mapping[str, Any], now: Mapping[str, Any]) -> Options:
    """Return the options with the settings that a finished run was trained with.

    Not its checkpoint: a file with the same weights may have moved.
    """
    names = {field.name for field in dataclasses.fields(options)} - {"checkpoint"}
    changed = changed_settings(before, now)
    return dataclasses.replace(options, **{name: changed[name] for name in names & changed.keys()})
