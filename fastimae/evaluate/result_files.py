"""results.json where it lies: reading it, and whether another task's is in the way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fastimae.folders import FolderError

RESULTS = "results.json"


def read_results(path: Path) -> dict[str, Any]:
    """The content of a results.json, or of the one in a folder. Raises OSError, ValueError."""
    return json.loads((path / RESULTS if path.is_dir() else path).read_text(encoding="utf-8"))


def check_own(folder: Path, task: str) -> None:
    """Raise FolderError where a folder has the results of another task, which would be lost."""
    try:
        found = read_results(folder).get("task", task)
    except (OSError, ValueError, AttributeError):
        return
    if found != task:
        raise FolderError(f"{folder} has the results of {found}: choose another --output_dir")
