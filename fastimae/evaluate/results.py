"""results.json: what a task found, from what, with what."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastimae import __version__
from fastimae.evaluate.options import EvalOptions, recorded
from fastimae.evaluate.result_files import RESULTS, read_results
from fastimae.folders import write_text

_LIBRARIES = ("torch", "torchvision", "timm", "scikit-learn", "torchmetrics", "piq")


def save_results(
    output_dir: Path,
    task: str,
    numbers: dict[str, Any],
    options: EvalOptions,
    *,
    origin: Mapping[str, Any] | None = None,
    pictures: Sequence[str] = (),
) -> Path:
    """Write output_dir/results.json, whole or not at all, and return its path.

    numbers: what JSON takes, by name. origin: of the weights, see `origin_of`. pictures: names of
    the files beside it that belong to it. Keys of the file: task, numbers, settings, checkpoint,
    weights, run, epoch, step, pictures, date (UTC), versions.
    """
    content = {
        "task": task,
        "numbers": numbers,
        "settings": recorded(options),
        "checkpoint": str(options.checkpoint),
        **(origin or {}),
        "pictures": list(pictures),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": _versions(),
    }
    output_dir.mkdir(exist_ok=True)
    path = output_dir / RESULTS
    write_text(path, json.dumps(content, indent=1) + "\n")
    return path


def _versions() -> dict[str, str]:
    found = {"fastimae": __version__, "python": platform.python_version()}
    for name in _LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def forget_results(folder: Path) -> None:
    """Remove results.json and its pictures, before others are drawn in their place."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        for name in read_results(folder).get("pictures", ()):
            (folder / Path(name).name).unlink(missing_ok=True)
    (folder / RESULTS).unlink(missing_ok=True)
