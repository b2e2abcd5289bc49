"""What a run and its evaluations left in its folder: log, settings, numbers, pictures."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastimae.engine.checkpoint_file import CLASSES, CheckpointError, args_in, read
from fastimae.engine.previous_runs import PICTURE
from fastimae.engine.run_file import STARTS, read_run_file
from fastimae.evaluate.pages.checkpoint_match import newest_checkpoint
from fastimae.evaluate.pages.evaluations import LOG, Evaluation, read_evaluations, read_log
from fastimae.evaluate.pages.starts import Start, read_starts
from fastimae.evaluate.pages.tables import is_number
from fastimae.evaluate.result_files import RESULTS
from fastimae.log import log
from fastimae.settings import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunRecord:
    """A folder that fastimae-train wrote, with the evaluations below it."""

    name: str
    folder: Path
    log: tuple[dict[str, Any], ...]
    """Lines of log.txt, one for each epoch."""
    settings: dict[str, Any]
    """By flag name, from the newest checkpoint, else from run.yaml; empty without both."""
    pictures: tuple[Path, ...]
    """Those that training drew; pictures beside a results.json are that evaluation's."""
    starts: tuple[Start, ...]
    """When and where it was started and resumed: one or more, with what is known of them."""
    evaluations: tuple[Evaluation, ...]
    left_out: tuple[Evaluation, ...]
    """Evaluations of weights that are not the run's."""

    @property
    def last_losses(self) -> dict[str, float]:
        """The losses in the log's last line, by name."""
        return _numbers(self.log[-1:], ("train_", "val_"), but="train_lr")

    @property
    def last_probes(self) -> dict[str, float]:
        """What the last probe while training measured, by name."""
        return _numbers(self.log, ("probe_",), but="probe_seconds")


def read_run(folder: Path, name: str | None = None) -> RunRecord:
    """Read a run's folder. Raises ConfigError if it holds nothing of a run."""
    check_folder(folder)
    evaluations = read_evaluations(folder)
    settings = read_settings(folder)
    run = RunRecord(
        name=name or folder.resolve().name,
        folder=folder,
        log=read_log(folder / LOG),
        settings=settings or _settings_in_run_file(folder),
        starts=read_starts(folder, settings),
        pictures=() if (folder / RESULTS).exists() else tuple(folder.glob(PICTURE)),
        evaluations=tuple(item for item in evaluations if item.match.belongs),
        left_out=tuple(item for item in evaluations if not item.match.belongs),
    )
    for item in run.left_out:
        log.warning("%s is left out: %s", item.folder, item.match.note)
    if not (run.log or run.settings or run.evaluations):
        raise ConfigError(f"{folder} holds no {LOG}, no checkpoint and no {RESULTS}: is it a run?")
    return run


def check_folder(folder: Path) -> None:
    """Raise ConfigError if there is no such folder."""
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder of a run")


def is_finished(folder: Path) -> bool:
    """Return whether a run's log and its newest checkpoint have all epochs of its settings.

    The log has an epoch before the checkpoint has it: a kill or a full disk may come in between.
    """
    entries, content = read_log(folder / LOG), _read_newest(folder)
    epochs = args_in(content).get("epochs")
    if not entries or epochs is None:
        return False
    whole = (content.get("loader") or {}).get("finished", True)  # earlier versions did not say
    saved = content.get("epoch", -1) + 1 if whole else 0
    return min(saved, entries[-1].get("epoch", -1) + 1) >= epochs


def read_settings(folder: Path) -> dict[str, Any]:
    """Return the settings in the folder's newest checkpoint, without reading its weights.

    The names of classes, which may be thousands, are left out.
    """
    settings = args_in(_read_newest(folder))
    return {name: value for name, value in settings.items() if name != CLASSES}


def _numbers(
    lines: Sequence[dict[str, Any]], prefixes: tuple[str, ...], *, but: str
) -> dict[str, float]:
    """Return the newest number of each name with such a prefix, except `but`."""
    return {
        name: value
        for line in lines
        for name, value in line.items()
        if name.startswith(prefixes) and name != but and is_number(value)
    }


def _read_newest(folder: Path) -> dict[str, Any]:
    newest = newest_checkpoint(folder)
    try:
        return read(newest, mmap=True) if newest else {}
    except CheckpointError as error:
        log.warning("%s", error)
        return {}


def _settings_in_run_file(folder: Path) -> dict[str, Any]:
    content = read_run_file(folder) or {}
    return {name: value for name, value in content.items() if name != STARTS}


def unique_names(folders: Sequence[Path]) -> list[str]:
    """Name each folder, with as many of the folders around it as it takes to be unique.

    A folder that is given twice gets a number.
    """
    paths = [folder.resolve() for folder in folders]
    names = _shortest(list(dict.fromkeys(paths)))
    return [
        f"{names[path]} ({paths[: at + 1].count(path)})" if paths.count(path) > 1 else names[path]
        for at, path in enumerate(paths)
    ]


def _shortest(paths: Sequence[Path]) -> dict[Path, str]:
    """Return the shortest ends of different paths that are unique."""
    lengths = dict.fromkeys(paths, 1)
    while True:
        names = {path: "/".join(path.parts[-length:]) for path, length in lengths.items()}
        counts = collections.Counter(names.values())
        if max(counts.values(), default=1) == 1:
            return names
        for path, name in names.items():
            lengths[path] += counts[name] > 1
