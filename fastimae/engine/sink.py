"""Where a run reports to: log.txt, TensorBoard and Weights & Biases take the same values.

The Reporter gives each sink everything; a sink ignores what it has no place for. Values are against
epoch x 1000, as in MAE's TensorBoard curves: runs with other batch sizes stay comparable.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunToReport:
    """What sinks need to know about a run before its first value."""

    folder: Path
    log_dir: Path
    """Folder of TensorBoard's files."""
    id: str
    settings: Mapping[str, Any]
    """By name, as plain values."""
    epoch: int
    """The epoch to train first. Lines of log.txt from it on are written again."""
    point: int
    """epoch x 1000 of the step to take first: 0, unless the run is resumed."""
    is_new: bool
    """Whether the folder has no reports of an earlier start of this run."""


class Sink:
    """Takes a run's values and pictures. Nothing is kept unless a method is overridden."""

    def step(self, values: Mapping[str, float], point: int) -> None:
        """Take the means since the last call. point: epoch x 1000."""

    def epoch(self, line: Mapping[str, Any], point: int) -> None:
        """Take the line of a finished epoch. point: epoch x 1000 at its end."""

    def picture(self, path: Path, point: int) -> None:
        """Take a PNG file, which is called as in earlier epochs."""

    def close(self, outcome: str) -> None:
        """Write what is left. outcome: see `fastimae.engine.run_file`."""
