"""The folder of a task's results: its pictures, results.json with the numbers, and run.yaml.

Others read results.json with `fastimae.evaluate.result_files`.
"""

from __future__ import annotations

import contextlib
import datetime
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fastimae.config import run_settings
from fastimae.engine.checkpoint import CheckpointError
from fastimae.engine.distributed import ALONE, World, alone
from fastimae.engine.output_folders import claim_folders
from fastimae.engine.run_file import RunFile, versions
from fastimae.evaluate.options.base import TaskOptions
from fastimae.evaluate.result_files import RESULTS, check_own, read_results
from fastimae.folders import write_text
from fastimae.settings import plain_settings


class Results:
    """The results of one run of a task, as they are made."""

    def __init__(self, folder: Path, task: str, options: Any, world: World = ALONE) -> None:
        """folder: must exist. options: an `TaskOptions`, or those of a study."""
        self.folder, self.task, self.options, self.world = folder, task, options, world
        self.run_file = RunFile(folder, _recorded(options))
        """For a `Trainer` in this folder; without one, `save` writes it."""
        self.pictures: list[str] = []

    def picture(self, name: str) -> Path:
        """Return the path to draw a picture to, which results.json will list.

        The first call removes results.json and the pictures of an earlier run, so that numbers
        and pictures are always of the same weights.
        """
        if not self.pictures:
            _remove_results(self.folder)
        self.pictures.append(name)
        return self.folder / name

    def save(
        self,
        numbers: Mapping[str, Any],
        options: TaskOptions | None = None,
        *,
        origin: Mapping[str, Any] | None = None,
    ) -> Path:
        """Write results.json and run.yaml, each atomically; return the path of results.json.

        numbers: by name, of types that JSON knows. options: those that the numbers were made with,
        if others than the given ones. origin: see `origin_of`. Keys of the file: task, numbers,
        settings, checkpoint, weights, run, epoch, step, adapted, pictures, date (UTC), versions.
        """
        options = options or self.options
        content = {
            "task": self.task,
            "numbers": numbers,
            "settings": _settings(options),
            **_checkpoint(options),
            **(origin or {}),
            "pictures": self.pictures,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "versions": versions(),
        }
        path = self.folder / RESULTS
        write_text(path, json.dumps(content, indent=1) + "\n")
        if not self.run_file.starts:
            self.run_file.settings = _recorded(options)
            self.run_file.record(alone(options.device) if self.world is ALONE else self.world)
        return path


@contextlib.contextmanager
def open_results(
    options: TaskOptions,
    task: str,
    *,
    inside: str = "",
    log_dir: Path | None = None,
    world: World = ALONE,
) -> Iterator[Results]:
    """Check the options, then make and lock the task's folder, or the one `inside` it.

    Enter it before anything is computed. Raises ConfigError for options that cannot work,
    CheckpointError if the checkpoint, beside which the folder would be, does not exist, FolderError
    if the folder has another task's results, and the errors of `claim_folders`.
    """
    options.check()
    if options.output_dir is None and not options.source().exists():
        raise CheckpointError(f"there is no checkpoint {options.source()}")
    folder = options.folder(task) / inside
    check_own(folder, task)
    with claim_folders(folder, log_dir, world):
        yield Results(folder, task, options, world)


def _remove_results(folder: Path) -> None:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        for name in read_results(folder).get("pictures", ()):
            (folder / Path(name).name).unlink(missing_ok=True)
    (folder / RESULTS).unlink(missing_ok=True)


def _recorded(options: Any) -> dict[str, Any]:
    """Return the settings for run.yaml."""
    keep = options.recorded if isinstance(options, TaskOptions) else ()
    return run_settings(plain_settings(options), keep)


def _checkpoint(options: Any) -> dict[str, str]:
    """Return the file of the model; nothing of a study, which has many."""
    return {"checkpoint": str(options.checkpoint)} if isinstance(options, TaskOptions) else {}


def _settings(options: Any) -> dict[str, Any]:
    """Return all settings, and the crop of the images unless the options are a study's."""
    if not isinstance(options, TaskOptions):  # a study, whose tasks write their own results
        return plain_settings(options)
    return options.described()
