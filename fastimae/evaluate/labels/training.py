"""Training a classifier: `train_with_labels`, measured by accuracy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from fastimae.engine.build_step import StepSettings
from fastimae.engine.distributed import World
from fastimae.engine.precision import resolve_precision
from fastimae.evaluate.labels.classification import Classification
from fastimae.evaluate.labels.validation import Batches, validate
from fastimae.evaluate.options.labels import TrainingOptions
from fastimae.evaluate.training.batches import EpochLoader
from fastimae.evaluate.training.run import Trained, train_with_labels


class TrainedClassifier(NamedTuple):
    """The outcome of a finished run."""

    numbers: dict[str, Any]
    options: TrainingOptions
    """See `Trained`."""


def train_classifier(
    options: TrainingOptions,
    objective: Classification,
    loader: EpochLoader,
    world: World,
    *,
    validation: Callable[[], Batches],
    how: StepSettings,
    **rest: Any,
) -> TrainedClassifier | None:
    """Train and test a classifier as `train_with_labels` does; None if a signal ended it early.

    validation: returns this rank's batches to test on. rest: other arguments of it.
    """
    precision = resolve_precision(how.precision, world.device)
    trained = train_with_labels(
        options, objective, loader, world,
        measure=lambda: validate(objective.student, validation(), world, precision),
        best="test_acc1", how=how, **rest,
    )  # fmt: skip
    return trained and TrainedClassifier(_numbers(trained), trained.options)


def _numbers(trained: Trained) -> dict[str, Any]:
    """Return acc1 and acc5 of the last epoch, as papers report them, and of the best one."""
    last, best = trained.last, trained.best
    return {
        "acc1": last["test_acc1"],
        "acc5": last["test_acc5"],
        "loss": last["test_loss"],
        "epochs": last["epoch"] + 1,
        "best_acc1": best["test_acc1"],
        "best_epoch": best["epoch"],
    }
