"""Match an evaluation in a run's folder to that run's checkpoints, and say of which epoch it is."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fastimae.engine.checkpoint import LAST, CheckpointError
from fastimae.engine.checkpoint_file import RUN, WEIGHTS
from fastimae.evaluate.origin import BEGUN, read_origin


class CheckpointMatch(NamedTuple):
    """How an evaluation's weights compare with the checkpoints of its run."""

    belongs: bool = True
    """Whether its numbers may be shown as the run's."""
    note: str = ""
    """What a reader must know; empty if the weights are those of the newest checkpoint."""
    epoch: str = ""
    """The epoch in words; empty if it is the run's last, or unknown."""


def newest_checkpoint(folder: Path) -> Path | None:
    """Return checkpoint-last.pth, or else the file written last; None if there is no checkpoint."""
    files = sorted(folder.glob("checkpoint-*.pth"), key=lambda path: path.stat().st_mtime)
    last = folder / LAST
    return last if last in files else files[-1] if files else None


class Checkpoints:
    """The checkpoints of a run's folder. Only candidates are read: a GB takes a second."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.newest = folder, newest_checkpoint(folder)

    def candidates(self, content: Mapping[str, Any]) -> list[Path]:
        """Return the files that an evaluation may be of, the newest first."""
        names = Path(str(content.get("checkpoint"))).name, f"checkpoint-{content.get('epoch')}.pth"
        files = [self.newest, *(self.folder / name for name in names)]
        return [path for path in dict.fromkeys(files) if path and path.is_file()]

    @functools.cache  # noqa: B019 - an instance lives only while its run is read
    def read(self, path: Path) -> dict[str, Any]:
        """Return what `read_origin` does, or {} if the file cannot be read."""
        try:
            return read_origin(path)
        except CheckpointError:
            return {}


def match_checkpoint(content: Mapping[str, Any], checkpoints: Checkpoints) -> CheckpointMatch:
    """Compare the weights that a results.json names with those of the checkpoints."""
    if (content.get("settings") or {}).get("random_init"):
        return CheckpointMatch(note="of fresh weights: the baseline that pre-training must beat")
    if not content.get(WEIGHTS):
        note = "unknown weights: an earlier version, which did not record them, wrote this"
        return CheckpointMatch(note=note)
    epoch = "" if content.get("epoch") is None else _epoch(content)
    origins = {path: checkpoints.read(path) for path in checkpoints.candidates(content)}
    origins = {path: origin for path, origin in origins.items() if origin}
    newest = origins.get(checkpoints.newest)
    if newest is None:
        return CheckpointMatch(note="there is no checkpoint to compare it with", epoch=epoch)
    same = [path for path, origin in origins.items() if is_of(origin, content)]
    if checkpoints.newest in same:
        return CheckpointMatch()
    if same:
        note = f"of {same[0].name}; the run is at {_epoch(newest)}"
        return CheckpointMatch(note=note, epoch=epoch)
    return _match_run(content, newest, list(origins.values()), epoch)


def match_beside(content: Mapping[str, Any], checkpoints: Checkpoints) -> CheckpointMatch:
    """Do the same for a results.json in the same folder as the checkpoints.

    The run or study that wrote the checkpoints wrote that file too, unless an evaluation had the
    run's folder as its --output_dir.
    """
    if checkpoints.newest is None or not content.get(WEIGHTS):
        return CheckpointMatch()
    if checkpoints.read(checkpoints.newest).get(BEGUN) == content[WEIGHTS]:
        return CheckpointMatch()
    return match_checkpoint(content, checkpoints)


def is_of(origin: Mapping[str, Any], content: Mapping[str, Any]) -> bool:
    """Return whether a results.json is of the weights in a checkpoint, or of a classifier on them.

    Only results of classifiers say what these began from. Such results may lie in the folder of the
    classifier's training, or in that of the encoder's.
    """
    begun = content.get(BEGUN)
    kin = begun is not None and begun in (origin[WEIGHTS], origin.get(BEGUN))
    return kin or origin[WEIGHTS] == content[WEIGHTS]


def _epoch(origin: Mapping[str, Any]) -> str:
    return "an unknown epoch" if origin["epoch"] is None else f"epoch {origin['epoch']}"


def _match_run(
    content: Mapping[str, Any], newest: Mapping[str, Any], origins: list[dict[str, Any]], epoch: str
) -> CheckpointMatch:
    """Compare the ids of runs, if no file has the weights: they may be of an earlier epoch."""
    run, its_run = content.get(RUN), newest[RUN]
    point = content.get("epoch"), content.get("step")
    # A file of the same epoch and step with other weights: the run was resumed from before it.
    if run and run == its_run and point not in [(one["epoch"], one["step"]) for one in origins]:
        note = f"of {epoch}, whose checkpoint is gone; the run is at {_epoch(newest)}"
        return CheckpointMatch(note=note, epoch=epoch)
    if run and its_run and run != its_run:
        return CheckpointMatch(belongs=False, note="from another run than the checkpoints here")
    return CheckpointMatch(belongs=False, note="its weights are in no checkpoint here")
