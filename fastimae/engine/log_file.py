"""log.txt: a JSON object for each epoch of a run, with MAE's keys."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from fastimae.best_effort import GrowingFile, best_effort
from fastimae.engine.sink import RunToReport, Sink
from fastimae.folders import write_text


class LogFile(Sink):
    """Appends a line for each epoch."""

    def __init__(self, run: RunToReport) -> None:
        """Drop the lines of the epochs that a resumed run trains again."""
        self.file = GrowingFile(run.folder / "log.txt")
        path = self.file.path
        if path.exists():
            with best_effort(path):
                text = path.read_text(encoding="utf-8", errors="replace")  # a crash may damage it
                kept = [line for line in text.splitlines() if _epoch_of(line) < run.epoch]
                if (now := "".join(f"{line}\n" for line in kept)) != text:
                    write_text(path, now)

    def epoch(self, line: Mapping[str, Any], point: int) -> None:
        self.file.append(json.dumps(line).encode() + b"\n")

    def close(self, outcome: str) -> None:
        self.file.flush()


def _epoch_of(line: str) -> float:
    """Return the epoch of a log line; a line cut short by a crash counts as the last."""
    try:
        return json.loads(line)["epoch"]
    except (ValueError, KeyError, TypeError):
        return math.inf
