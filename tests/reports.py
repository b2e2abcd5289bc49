"""Readers of what a run reports: TensorBoard's files and log.txt."""

import json
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def board_of(folder: Path) -> EventAccumulator:
    """Read all that TensorBoard shows of a run."""
    return EventAccumulator(str(folder), size_guidance={"images": 0}).Reload()


def log_of(folder: Path) -> list[dict[str, Any]]:
    """Read the lines of log.txt."""
    return [json.loads(line) for line in (folder / "log.txt").read_text().splitlines()]
