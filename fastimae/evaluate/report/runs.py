"""What a run left behind in its folder: log, settings, results of evaluations, pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastimae.engine.files import CLASSES, CheckpointError, read_args
from fastimae.engine.leftovers import PICTURE
from fastimae.evaluate.report.evaluations import LOG, Evaluation, read_evaluations, read_log
from fastimae.evaluate.report.standing import newest_checkpoint
from fastimae.evaluate.result_files import RESULTS
from fastimae.log import log
from fastimae.settings import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """A folder that fastimae-train wrote, with the evaluations below it."""

    name: str
    folder: Path
    log: tuple[dict[str, Any], ...]
    """Lines of log.txt, one for each epoch."""
    settings: dict[str, Any]
    """By flag name, from the newest checkpoint; empty without one."""
    pictures: tuple[Path, ...]
    """Those of training; pictures beside a results.json are that evaluation's."""
    evaluations: tuple[Evaluation, ...]
    left_out: tuple[Evaluation, ...]
    """Evaluations of other weights than the run's."""


def read_run(folder: Path, name: str | None = None) -> Run:
    """What is in the folder. Raises ConfigError where nothing of a run is."""
    check_folder(folder)
    evaluations = read_evaluations(folder)
    run = Run(
        name=name or folder.resolve().name,
        folder=folder,
        log=read_log(folder / LOG),
        settings=read_settings(folder),
        pictures=() if (folder / RESULTS).exists() else tuple(folder.glob(PICTURE)),
        evaluations=tuple(item for item in evaluations if item.standing.ours),
        left_out=tuple(item for item in evaluations if not item.standing.ours),
    )
    for item in run.left_out:
        log.warning("%s is left out: %s", item.folder, item.standing.note)
    if not (run.log or run.settings or run.evaluations):
        raise ConfigError(f"{folder} holds no {LOG}, no checkpoint and no {RESULTS}: is it a run?")
    return run


def check_folder(folder: Path) -> None:
    """Raise ConfigError where there is no such folder."""
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder of a run")


def is_finished(folder: Path) -> bool:
    """Whether a run's log reaches the last epoch that the settings in its checkpoint ask for."""
    entries, settings = read_log(folder / LOG), read_settings(folder)
    if not entries or "epochs" not in settings:
        return False
    return entries[-1].get("epoch", -1) + 1 >= settings["epochs"]


def read_settings(folder: Path) -> dict[str, Any]:
    """Settings in the newest checkpoint of the folder, without reading its weights, and without the
    names of the classes, which may be thousands."""
    newest = newest_checkpoint(folder)
    try:
        settings = read_args(newest) if newest else {}
    except CheckpointError as error:
        log.warning("%s", error)
        return {}
    return {name: value for name, value in settings.items() if name != CLASSES}


def last_losses(entries: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The losses of a log's last line, by name."""
    last = entries[-1] if entries else {}
    return {
        key: value
        for key, value in last.items()
        if key.startswith(("train_", "val_")) and key != "train_lr" and _is_number(value)
    }


def scalars(numbers: dict[str, Any]) -> dict[str, Any]:
    """The entries of `numbers` that are single values."""
    return {key: value for key, value in numbers.items() if isinstance(value, int | float | str)}


def tables(numbers: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The entries of `numbers` that are lists of rows."""
    return {
        key: value
        for key, value in numbers.items()
        if isinstance(value, list) and value and all(isinstance(row, dict) for row in value)
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
