"""What a run leaves in its folder, moved out of the way before another begins there."""

from __future__ import annotations

import re
from pathlib import Path

from fastimae.folders import PARTIAL
from fastimae.locks import check_free
from fastimae.log import log

PICTURE = "reconstruction.png"
EVENTS = "events.out.tfevents.*"
OF_A_RUN = (
    *("checkpoint-*.pth", "shards-*", "log.txt", EVENTS, PICTURE),
    *("nonfinite-rank*.json", "profile-rank*", "results.json", "report.html"),
    *("eval-*", "eval/results.json"),
)
"""All that a run leaves, and what was found out about it."""
_BESIDE = ("debug.log",)
"""Goes with a run, and is none by itself."""
_HALF_WRITTEN = tuple(f"{name}{PARTIAL}" for name in OF_A_RUN if "." in name)
_PREVIOUS = re.compile(r"previous-(\d+)")
_MARKED = re.compile(r"\.run-(\w+)$")
"""See `mark`; earlier versions, and other programs, leave no mark, and are not told apart."""


def make_room(
    output_dir: Path,
    log_dir: Path | None = None,
    resumed: Path | None = None,
    keep: Path | None = None,
    run: str = "",
) -> None:
    """Set aside what another run left, but for `keep`; resumed: the checkpoint to go on from, whose
    run stays. run: what tells this run from others, whose curves would run into its own."""
    if resumed is None or resumed.resolve().parent != output_dir.resolve():
        set_aside(output_dir, log_dir, keep)
    else:
        place = log_dir or output_dir
        marks = {file: _MARKED.search(file.name) for file in _found(place, (EVENTS,))}
        _move([file for file, found in marks.items() if found and found[1] != run], place)


def mark(run: str) -> str:
    """The end of the names of a run's EVENTS."""
    return f".run-{run}" if run else ""


def set_aside(
    output_dir: Path, log_dir: Path | None = None, keep: Path | None = None
) -> Path | None:
    """Move an earlier run's files from output_dir into output_dir/previous-N, which is returned;
    None where there are none. Likewise TensorBoard's from log_dir. keep: what stays.

    Raises InUse, and moves nothing, while one of the run's evaluations is under way.
    """
    for pattern in _HALF_WRITTEN:
        for file in output_dir.glob(pattern):
            file.unlink()
    if log_dir and log_dir.resolve() != output_dir.resolve():
        _move(_found(log_dir, (EVENTS,)), log_dir)
    files = [file for file in _found(output_dir, OF_A_RUN) if file != keep]
    for file in files:
        if file.is_dir():
            check_free(file)
    return _move([*files, *_found(output_dir, _BESIDE)], output_dir) if files else None


def is_set_aside(folder: Path) -> bool:
    """Whether the folder is one of an earlier run's files."""
    return _PREVIOUS.fullmatch(folder.name) is not None


def _found(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    return sorted(file for pattern in patterns for file in folder.glob(pattern))


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
