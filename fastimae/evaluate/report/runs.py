"""What a run left behind in its folder: log, settings, results of evaluations, pictures."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from fastimae.config import ConfigError
from fastimae.evaluate.class_names import CLASSES
from fastimae.evaluate.results import RESULTS

log = logging.getLogger("fastimae")

LOG = "log.txt"
_SET_ASIDE = re.compile(r"^previous-\d+$")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One results.json and the pictures beside it."""

    name: str
    """The task, and the folder where that says more."""
    folder: Path
    content: dict[str, Any]
    pictures: tuple[Path, ...]
    log: tuple[dict[str, Any], ...]
    """Lines of its log.txt, for tasks that train."""

    @property
    def numbers(self) -> dict[str, Any]:
        """What was found."""
        return self.content.get("numbers") or {}


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


def read_run(folder: Path, name: str | None = None) -> Run:
    """What is in the folder. Raises ConfigError where nothing of a run is."""
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder of a run")
    run = Run(
        name=name or folder.resolve().name,
        folder=folder,
        log=read_log(folder / LOG),
        settings=read_settings(folder),
        pictures=() if (folder / RESULTS).exists() else tuple(sorted(folder.glob("*.png"))),
        evaluations=tuple(
            _evaluation(path, folder)
            for path in sorted(folder.rglob(RESULTS))
            if not any(_SET_ASIDE.match(part) for part in path.relative_to(folder).parts)
        ),
    )
    if not (run.log or run.settings or run.evaluations):
        raise ConfigError(f"{folder} holds no {LOG}, no checkpoint and no {RESULTS}: is it a run?")
    return run


def is_finished(folder: Path) -> bool:
    """Whether a run's log reaches the last epoch that the settings in its checkpoint ask for."""
    entries, settings = read_log(folder / LOG), read_settings(folder)
    if not entries or "epochs" not in settings:
        return False
    return entries[-1].get("epoch", -1) + 1 >= settings["epochs"]


def read_log(path: Path) -> tuple[dict[str, Any], ...]:
    """Lines of a log.txt; what a crash cut short is left out. Empty where there is no file."""
    entries = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict):
            entries.append(entry)
    return tuple(entries)


def read_settings(folder: Path) -> dict[str, Any]:
    """Settings in the newest checkpoint of the folder, without reading its weights, and without the
    names of the classes, which may be thousands."""
    files = sorted(folder.glob("checkpoint-*.pth"), key=lambda path: path.stat().st_mtime)
    if not files:
        return {}
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(files[-1], map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises many kinds for damaged and foreign files
        log.warning("%s cannot be read: %s", files[-1], " ".join(str(error).split())[:200])
        return {}
    args = content.get("args") if isinstance(content, dict) else None
    settings = args if isinstance(args, dict) else vars(args) if args else {}
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


def _evaluation(path: Path, run: Path) -> Evaluation:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON: {error}") from error
    folder = path.parent
    task = str(content.get("task", folder.name)) if isinstance(content, dict) else folder.name
    usual = folder.name in (f"eval-{task}", task)
    place = (
        (folder.parent if usual else folder).relative_to(run).as_posix() if folder != run else "."
    )
    return Evaluation(
        name=task if place == "." else f"{task} ({place})",
        folder=folder,
        content=content if isinstance(content, dict) else {"numbers": content},
        pictures=tuple(sorted(folder.glob("*.png"))),
        log=read_log(folder / LOG),
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
