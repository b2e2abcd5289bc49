"""Training a classifier with the engine's trainer: options, resuming, and the run itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fastimae.engine.assemble import assemble, checkpoint_args, resume_or_begin
from fastimae.engine.build_step import MakeOptimizer, StepSettings
from fastimae.engine.checkpoint import find_resume, load_checkpoint
from fastimae.engine.checkpoint_file import (
    LABELLED,
    WEIGHTS,
    CheckpointError,
    args_in,
    changed_settings,
)
from fastimae.engine.distributed import World
from fastimae.engine.precision import resolve_precision
from fastimae.engine.resume import check_kind, check_results_still_apply, resume_trainer
from fastimae.engine.run_file import RunFile
from fastimae.engine.trainer import Trainer
from fastimae.evaluate.labels.class_names import check_same_classes
from fastimae.evaluate.labels.classification import Classification, EpochLoader
from fastimae.evaluate.labels.validation import Batches, ValidatingLoader
from fastimae.evaluate.options.labels import TrainingOptions
from fastimae.evaluate.origin import check_same_weights
from fastimae.loaders.order.choice import flags_of_choice
from fastimae.loaders.settings import ChoiceSettings
from fastimae.settings import ConfigError


def check_apart(options: TrainingOptions, folder: Path) -> None:
    """Raise ConfigError if --checkpoint is in the output folder of this run.

    Training would archive the files of an earlier run there, and the checkpoint with them.
    """
    path = options.checkpoint
    if path.resolve().parent == folder.resolve() and path.match("checkpoint-*.pth"):
        raise ConfigError(f"--output_dir {folder} holds --checkpoint {path}: choose another")


def check_resume(
    options: TrainingOptions, folder: Path, kind: str, origin: Mapping[str, Any]
) -> None:
    """Raise CheckpointError if --resume names no run of this kind, or one on other weights.

    To be called before images are opened. folder: of the run. kind: see `resume.kind_of`. origin:
    of the encoder, see `origin_of`.
    """
    if path := find_resume(options.resume, folder):
        content = load_checkpoint(path, mmap=True)
        check_kind(content, kind, path, "--checkpoint")
        check_same_weights(path, content, {WEIGHTS: origin[WEIGHTS]})


class Trained(NamedTuple):
    """The outcome of a finished run."""

    numbers: dict[str, Any]
    options: TrainingOptions
    """The options that it was trained with; those of the earlier run if no epoch was left."""


def train_classifier(
    options: TrainingOptions,
    objective: Classification,
    loader: EpochLoader,
    world: World,
    *,
    validation: Callable[[], Batches],
    tested_on: int,
    how: StepSettings,
    workers: int,
    optimizer: MakeOptimizer,
    output_dir: Path,
    run_file: RunFile,
    settings: Mapping[str, Any],
    keep: Path | None = None,
) -> Trained | None:
    """Train and validate epoch by epoch, from where --resume says; None if a signal ended it early.

    validation, tested_on: see `ValidatingLoader`. how, workers, optimizer: see `assemble`.
    run_file: see `Trainer`. settings: to keep in checkpoints. keep: a file or folder made for this
    run, which stays when the files of an earlier run are moved. Raises CheckpointError,
    NonFiniteLoss.
    """
    args = checkpoint_args(settings, options, world)
    validating = ValidatingLoader(
        loader, objective.student, validation, world,
        precision=resolve_precision(how.precision, world.device), output_dir=output_dir, args=args,
        tested_on=tested_on,
    )  # fmt: skip
    trainer = assemble(
        objective, validating, world,
        run=(options,), step_settings=how, workers=workers, output_dir=output_dir, args=args,
        optimizer=optimizer, run_file=run_file,
    )  # fmt: skip
    before = resume_or_begin(trainer, _resume, keep)
    trained = _as_before(options, before, trainer.args) if trainer.finished else options
    return Trained(_numbers(validating), trained) if trainer.run() else None


def _numbers(loader: ValidatingLoader) -> dict[str, Any]:
    """Return acc1 and acc5 of the last epoch, as papers report them, and of the best one."""
    last, best = loader.last, loader.best
    return {
        "acc1": last["test_acc1"],
        "acc5": last["test_acc5"],
        "loss": last["test_loss"],
        "epochs": last["epoch"] + 1,
        "best_acc1": best["test_acc1"],
        "best_epoch": best["epoch"],
    }


def _resume(trainer: Trainer, content: dict[str, Any], path: Path) -> None:
    check_same_weights(path, content, trainer.args)
    check_same_classes(path, content, trainer.args)
    _check_same_labels(path, content, trainer.args)
    resume_trainer(trainer, content, path, "--checkpoint")
    check_results_still_apply(trainer, content, path)


def _check_same_labels(path: Path, content: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise CheckpointError unless the run to resume learned from the same part of the images."""
    before = args_in(content)
    if before.get(LABELLED, "") != now[LABELLED]:
        raise CheckpointError(
            f"--resume {path} learned from {_part_in(before)}, and this run from {_part_in(now)}: "
            "give the same part of the same images, or choose another --output_dir"
        )


def _part_in(settings: Mapping[str, Any]) -> str:
    """Describe which labels a run with these settings learned from."""
    if settings.get("label_list"):
        return f"--label_list {settings['label_list']}"
    if settings.get("label_fraction"):
        seed = settings.get("seed")
        return f"--label_fraction {settings['label_fraction']:g} (--seed {seed})"
    given = {name: settings[name] for name in ("images", "images_from") if settings.get(name)}
    choice = flags_of_choice(ChoiceSettings(**given))
    return f"{choice} (--seed {settings.get('seed')})" if choice else "all labels"


def _as_before(
    options: TrainingOptions, before: Mapping[str, Any], now: Mapping[str, Any]
) -> TrainingOptions:
    """Return the options with the settings that a finished run was trained with.

    Not its checkpoint: a file with the same weights may have moved.
    """
    names = {field.name for field in dataclasses.fields(options)} - {"checkpoint"}
    changed = changed_settings(before, now)
    return dataclasses.replace(options, **{name: changed[name] for name in names & changed.keys()})
