"""The files that a run leaves in its folder, archived before another run begins there."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

from fastimae.engine.run_file import RUN_FILE
from fastimae.folders import PARTIAL
from fastimae.locks import check_free
from fastimae.log import log

PICTURE = "reconstruction.png"
RESULTS = "results.json"
EVENTS = "events.out.tfevents.*"
RUN_FILES = (
    *("checkpoint-*.pth", "shards-*", "log.txt", RUN_FILE, EVENTS, PICTURE),
    *("nonfinite-rank*.json", "profile-rank*", RESULTS, "report.html"),
    *("eval-*", f"eval/{RESULTS}"),
)
"""The files of a run, and of its evaluations."""
_BESIDE = ("debug.log", "wandb")
"""Archived with a run's files, but no sign of a run by itself."""
_HALF_WRITTEN = tuple(f"{name}{PARTIAL}" for name in RUN_FILES if "." in name)
_PREVIOUS = re.compile(r"previous-(\d+)")
_RUN_SUFFIX = re.compile(r"\.run-(\w+)$")
"""See `run_suffix`. Event files of earlier versions and of other programs have none: they stay."""


def archive_other_runs(
    output_dir: Path,
    log_dir: Path | None = None,
    resumed: Path | None = None,
    keep: Path | None = None,
    run: str = "",
) -> None:
    """Archive the files of other runs, except `keep`.

    resumed: the checkpoint to resume from; files of its run stay. run: the id of this run; event
    files of other runs are archived, as TensorBoard would join their curves to this run's.
    """
    if resumed is None or resumed.resolve().parent != output_dir.resolve():
        archive_previous_run(output_dir, log_dir, keep)
    else:
        folder = log_dir or output_dir
        runs = {file: _RUN_SUFFIX.search(file.name) for file in _matching(folder, (EVENTS,))}
        _move([file for file, found in runs.items() if found and found[1] != run], folder)


def run_suffix(run: str) -> str:
    """Return the ending of the names of a run's event files."""
    return f".run-{run}" if run else ""


def archive_previous_run(
    output_dir: Path, log_dir: Path | None = None, keep: Path | None = None
) -> Path | None:
    """Move an earlier run's files from output_dir to output_dir/previous-N; return that folder.

    Returns None if there are no such files. TensorBoard's files in log_dir are moved to
    log_dir/previous-N. keep: a file that stays.

    Raises InUse, and moves nothing, while one of the run's evaluations is running.
    """
    for pattern in _HALF_WRITTEN:
        for file in output_dir.glob(pattern):
            file.unlink()
    if log_dir and log_dir.resolve() != output_dir.resolve():
        _move(_matching(log_dir, (EVENTS,)), log_dir)
    files = [file for file in _matching(output_dir, RUN_FILES) if file != keep]
    files += [file for path in files if path.name == RESULTS for file in _pictures_of(path)]
    for file in files:
        if file.is_dir():
            check_free(file)
    return _move([*files, *_matching(output_dir, _BESIDE)], output_dir) if files else None


def is_previous_run(folder: Path) -> bool:
    """Return whether the folder holds an archived run."""
    return _PREVIOUS.fullmatch(folder.name) is not None


def _matching(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    return sorted(file for pattern in patterns for file in folder.glob(pattern))


def _pictures_of(results: Path) -> Iterator[Path]:
    """Yield the pictures that results.json lists: beside a later run's, they would be taken for
    its own."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        content = json.loads(results.read_text(encoding="utf-8"))
        names = {Path(name).name for name in content.get("pictures", ())} - {PICTURE}
        yield from (path for name in sorted(names) if (path := results.parent / name).is_file())


def _move(files: list[Path], folder: Path) -> Path | None:
    if not files:
        return None
    taken = (_PREVIOUS.fullmatch(path.name) for path in folder.iterdir())
    target = folder / f"previous-{1 + max((int(found[1]) for found in taken if found), default=0)}"
    for file in files:
        moved = target / file.relative_to(folder)
        moved.parent.mkdir(parents=True, exist_ok=True)
        file.rename(moved)
    log.warning("%s held an earlier run: its files are in %s now", folder, target)
    return target
