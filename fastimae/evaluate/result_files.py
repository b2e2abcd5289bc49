"""results.json files: reading them, and keeping tasks from overwriting each other's.

results.py writes them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fastimae.folders import FolderError

RESULTS = "results.json"
FORMERLY = "formerly"
"""Key of `read_results`: the name by which a file calls its task, if that has another name now."""

CLASSIFIERS = "classifiers"
"""Key of results of several classifiers: the file, origin and numbers of each, in their order."""


def read_results(path: Path) -> dict[str, Any]:
    """Return the content of a results.json, or of the one in a folder, with present names.

    Earlier versions called mixtureprobe and its number msem, which now is the paper's M_sem.
    Raises OSError, ValueError.
    """
    content = json.loads((path / RESULTS if path.is_dir() else path).read_text(encoding="utf-8"))
    numbers = content.get("numbers") if isinstance(content, dict) else None
    if not isinstance(numbers, dict):
        return content
    if content.get("task") == "msem" and "msem" in numbers:
        names = {"task": "mixtureprobe", FORMERLY: "msem"}
        return {**content, **names, "numbers": _with("mean_acc1", numbers)}
    if content.get("task") == "semantics":
        tables = {name: _renamed_column(value) for name, value in numbers.items()}
        return {**content, "numbers": tables}
    return content


def _with(name: str, numbers: dict[str, Any]) -> dict[str, Any]:
    """Return the numbers with `name` for "msem"."""
    return {name if key == "msem" else key: value for key, value in numbers.items()}


def _renamed_column(table: Any) -> Any:
    """Return a study's table with "mixtureprobe" for "msem", and any other number as it is."""
    if not isinstance(table, list):
        return table
    return [_with("mixtureprobe", row) if isinstance(row, dict) else row for row in table]


def check_own(folder: Path, task: str) -> None:
    """Raise FolderError if a folder has the results of another task, which would be lost."""
    try:
        other = read_results(folder).get("task", task)
    except (OSError, ValueError, AttributeError):
        return
    if other != task:
        raise FolderError(f"{folder} has the results of {other}: choose another --output_dir")
