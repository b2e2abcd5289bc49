"""TensorBoard's files of a run: curves, pictures of the same images over time, and settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard.summary import hparams, scalar, text

from fastimae.engine.event_file import EventFile
from fastimae.engine.previous_runs import run_suffix
from fastimae.engine.run_file import FINISHED, to_yaml
from fastimae.engine.sink import RunToReport, Sink
from fastimae.settings import free_settings


class TensorBoardLog(Sink):
    """Writes event files to the run's log_dir, for the tabs SCALARS, IMAGES, TEXT and HPARAMS."""

    def __init__(self, run: RunToReport) -> None:
        """Hide the values after the step that the run resumes at: it writes them again."""
        purge = run.point + 1 if run.point else None
        self.events = EventFile(run.log_dir, suffix=run_suffix(run.id), purge_from=purge)
        # Without an "experiment" TensorBoard collects all names and metrics of all runs itself.
        _, started, self.ended = hparams(_hparams(run.settings), {})
        if run.is_new:
            self.events.add(started)
            self.events.add(text("settings", f"```yaml\n{to_yaml(run.settings)}```"), run.point)

    def step(self, values: Mapping[str, float], point: int) -> None:
        for name, value in values.items():
            self.events.add(scalar(name, value), point)

    def epoch(self, line: Mapping[str, Any], point: int) -> None:
        for name, value in line.items():
            if name != "epoch":
                self.events.add(scalar(f"epoch/{name}", value), point)
        self.events.flush()

    def picture(self, path: Path, point: int) -> None:
        with Image.open(path) as picture:
            width, height, channels = *picture.size, len(picture.getbands())
        image = Summary.Image(
            width=width, height=height, colorspace=channels,
            encoded_image_string=path.read_bytes(),
        )  # fmt: skip
        self.events.add(Summary(value=[Summary.Value(tag=path.stem, image=image)]), point)
        self.events.flush()

    def close(self, outcome: str) -> None:
        if outcome == FINISHED:
            self.events.add(self.ended)
        self.events.flush()


def _hparams(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that make a run what it is, as values that HPARAMS can show."""
    free = free_settings()
    kept = {name: value for name, value in settings.items() if name not in free}
    return {n: str(v) if isinstance(v, list | dict) else v for n, v in kept.items()}
