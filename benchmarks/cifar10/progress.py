"""How far runs are: epochs trained, and which weights an evaluation is of."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.cifar10.jobs import Job
from fastimae.engine.checkpoint import LAST, load_checkpoint
from fastimae.engine.checkpoint_file import WEIGHTS
from fastimae.evaluate.origin import BEGUN, read_origin
from fastimae.evaluate.result_files import RESULTS, read_results


def epochs_trained(folder: Path) -> float:
    """Return the epochs of a pre-training that its checkpoint has, with the part of the current."""
    content = _checkpoint(folder)
    return _point(content, updates_per_epoch(folder)) if content else 0.0


def epochs_of_result(folder: Path, model: Path) -> float | None:
    """Return the epochs of pre-training of the weights that a result is of; None without one.

    folder: of the evaluation. model: the folder of the pre-training.
    """
    if not (folder / RESULTS).is_file():
        return None
    return _point(read_results(folder), updates_per_epoch(model))


def updates_per_epoch(folder: Path) -> int:
    """Return the optimizer steps per epoch of a run that has a checkpoint."""
    loader = _checkpoint(folder)["loader"]
    return loader["samples"] // (loader["stride"] * loader["accum_iter"])


def is_current(job: Job) -> bool:
    """Return whether what an evaluation has, if anything, is of the weights as they are now."""
    now = read_origin(job.run.checkpoint)[WEIGHTS]
    if job.run.done():
        return read_results(job.run.folder)[WEIGHTS] == now
    begun = job.run.folder / LAST
    return not begun.is_file() or read_origin(begun)[BEGUN] == now


def forget(job: Job) -> None:
    """Remove what an evaluation has of other weights."""
    shutil.rmtree(job.run.folder, ignore_errors=True)
    shutil.rmtree(job.run.folder.parent / "eval-features", ignore_errors=True)


def _checkpoint(folder: Path) -> dict[str, Any]:
    path = folder / LAST
    return load_checkpoint(path, mmap=True) if path.is_file() else {}


def _point(origin: Mapping[str, Any], updates: int) -> float:
    """Return the epochs that weights have: they are of so many steps of an epoch."""
    return origin["epoch"] + origin["step"] / updates
