"""results.json files: reading them, and keeping tasks from overwriting each other's.

results.py writes them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fastimae.folders import FolderError

RESULTS = "results.json"


def read_results(path: Path) -> dict[str, Any]:
    """Return the content of a results.json, or of the one in a folder.

    Raises OSError, ValueError.
    """
    return json.loads((path / RESULTS if path.is_dir() else path).read_text(encoding="utf-8"))


def check_own(folder: Path, task: str) -> None:
    """Raise FolderError if a folder has the results of another task, which would be lost."""
    try:
        other = read_results(folder).get("task", task)
    except (OSError, ValueError, AttributeError):
        return
    if other != task:
        raise FolderError(f"{folder} has the results of {other}: choose another --output_dir")
