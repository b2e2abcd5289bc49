"""How far runs are: epochs trained, and which weights an evaluation is of."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.cifar10.jobs import Job
from fastimae.engine.checkpoint import LAST, load_checkpoint
from fastimae.engine.checkpoint_file import WEIGHTS
from fastimae.evaluate.origin import BEGUN, read_origin
from fastimae.evaluate.result_files import RESULTS, read_results


class Progress(NamedTuple):
    """How far a pre-training is."""

    epochs: float = 0.0
    """With the part of the current one."""
    updates: int = 0
    """Optimizer steps per epoch."""


def epochs_trained(folder: Path) -> float:
    """Return the epochs that the checkpoint of a pre-training has, with the part of the current."""
    return _progress(folder).epochs


def updates_per_epoch(folder: Path) -> int:
    """Return the optimizer steps per epoch of a run that has a checkpoint."""
    return _progress(folder).updates


def epochs_of_result(folder: Path, model: Path) -> float | None:
    """Return the epochs of pre-training of the weights that a result is of; None without one.

    folder: of the evaluation. model: the folder of the pre-training.
    """
    if not (folder / RESULTS).is_file():
        return None
    return _point(read_results(folder), updates_per_epoch(model))


def is_current(job: Job) -> bool:
    """Return whether what an evaluation has, if anything, is of the weights as they are now."""
    model = job.run.checkpoint
    now = _read_origin(model, model.stat().st_mtime_ns)[WEIGHTS]
    if job.run.done():
        return read_results(job.run.folder)[WEIGHTS] == now
    begun = job.run.folder / LAST
    return not begun.is_file() or read_origin(begun)[BEGUN] == now


def forget(job: Job) -> None:
    """Remove what an evaluation has of other weights."""
    shutil.rmtree(job.run.folder, ignore_errors=True)
    shutil.rmtree(job.run.folder.parent / "eval-features", ignore_errors=True)


def _progress(folder: Path) -> Progress:
    path = folder / LAST
    return _read_progress(path, path.stat().st_mtime_ns) if path.is_file() else Progress()


@functools.lru_cache
def _read_progress(path: Path, written: int) -> Progress:
    content = load_checkpoint(path, mmap=True)
    loader = content["loader"]
    updates = loader["samples"] // (loader["stride"] * loader["accum_iter"])
    return Progress(_point(content, updates), updates)


@functools.lru_cache
def _read_origin(path: Path, written: int) -> Mapping[str, Any]:
    return read_origin(path)


def _point(origin: Mapping[str, Any], updates: int) -> float:
    """Return the epochs that weights have: they are of so many steps of an epoch."""
    return origin["epoch"] + origin["step"] / updates
