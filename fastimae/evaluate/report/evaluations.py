"""The evaluations in a run's folder, each with what it has to do with the run."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

from fastimae.engine.leftovers import is_set_aside
from fastimae.evaluate.report.standing import Checkpoints, Standing, judge, judge_own
from fastimae.evaluate.result_files import RESULTS, read_results
from fastimae.settings import ConfigError

LOG = "log.txt"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One results.json and its pictures."""

    name: str
    """The task, and the folder where that says more."""
    folder: Path
    content: dict[str, Any]
    pictures: tuple[Path, ...]
    log: tuple[dict[str, Any], ...]
    """Lines of its log.txt, for tasks that train."""
    standing: Standing
    """Whether it is of the run that it lies in, and of which epoch."""

    @property
    def numbers(self) -> dict[str, Any]:
        """What was found."""
        return self.content.get("numbers") or {}


def read_evaluations(run: Path) -> list[Evaluation]:
    """All below the folder, but for those that were set aside. Raises ConfigError."""
    found: dict[Path, Evaluation] = {}
    checkpoints = functools.cache(Checkpoints)
    for path in sorted(run.rglob(RESULTS), key=lambda path: len(path.parts)):
        content, folder = _content(path), path.parent
        within = [one for one in folder.parents if one == run or run in one.parents]  # inner first
        if any(map(is_set_aside, [folder, *within[:-1]])):
            continue
        outer = [found[one].standing for one in within if one in found]
        if refused := [one for one in outer if not one.ours]:
            standing = refused[0]
        elif within:
            owners = (one for one in within if checkpoints(one).newest)
            standing = judge(content, checkpoints(next(owners, run)))
        else:
            standing = judge_own(content, checkpoints(run))
        found[folder] = _evaluation(content, folder, run, standing)
    return [found[folder] for folder in sorted(found)]


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


def _evaluation(content: dict[str, Any], folder: Path, run: Path, standing: Standing) -> Evaluation:
    task = str(content.get("task", folder.name))
    usual = folder.name in (f"eval-{task}", task)
    place = (
        (folder.parent if usual else folder).relative_to(run).as_posix() if folder != run else "."
    )
    names = content.get("pictures")
    return Evaluation(
        name=task if place == "." else f"{task} ({place})",
        folder=folder,
        content=content,
        pictures=_pictures(folder, names),
        log=read_log(folder / LOG),
        standing=standing,
    )


def _pictures(folder: Path, names: Any) -> tuple[Path, ...]:
    """Those that the results name; of an earlier version, which named none, all there are."""
    if not isinstance(names, list):
        return tuple(sorted(folder.glob("*.png")))
    files = (folder / Path(str(name)).name for name in names)
    return tuple(file for file in files if file.is_file())


def _content(path: Path) -> dict[str, Any]:
    try:
        content = read_results(path)
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON: {error}") from error
    return content if isinstance(content, dict) else {"numbers": content}
