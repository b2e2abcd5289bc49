"""Whether an evaluation is of the run in whose folder it lies, and of which of its epochs."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fastimae.engine.checkpoint import LAST, CheckpointError
from fastimae.engine.files import RUN, WEIGHTS
from fastimae.evaluate.origin import BEGUN, read_origin


class Standing(NamedTuple):
    """What there is to say of an evaluation, as against the checkpoints of its run."""

    ours: bool = True
    """Whether its numbers may be shown as the run's."""
    note: str = ""
    """What a reader must know; without a note it is of the newest checkpoint."""
    when: str = ""
    """The epoch, where it is another one than the run's last."""


def newest_checkpoint(folder: Path) -> Path | None:
    """The one that a run's folder stands for: its last, or else the latest file; None without."""
    files = sorted(folder.glob("checkpoint-*.pth"), key=lambda path: path.stat().st_mtime)
    last = folder / LAST
    return last if last in files else files[-1] if files else None


class Checkpoints:
    """Those of a run's folder. Few are read: weights take a second for each GB."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.newest = folder, newest_checkpoint(folder)

    def named(self, content: Mapping[str, Any]) -> list[Path]:
        """The files that an evaluation may be of, the newest first."""
        names = Path(str(content.get("checkpoint"))).name, f"checkpoint-{content.get('epoch')}.pth"
        files = [self.newest, *(self.folder / name for name in names)]
        return [path for path in dict.fromkeys(files) if path and path.is_file()]

    @functools.cache  # noqa: B019 - it lives as long as a report
    def read(self, path: Path) -> dict[str, Any]:
        """See `read_origin`; {} if it cannot be read."""
        try:
            return read_origin(path)
        except CheckpointError:
            return {}


def judge(content: Mapping[str, Any], checkpoints: Checkpoints) -> Standing:
    """The standing of a results.json's content."""
    if (content.get("settings") or {}).get("random_init"):
        return Standing(note="of fresh weights: what pre-training must beat")
    if not content.get(WEIGHTS):
        return Standing(
            note="unknown whether it is of these weights: an earlier version did not note that"
        )
    epoch = content.get("epoch")
    when = "" if epoch is None else _epoch(content)
    read = {path: checkpoints.read(path) for path in checkpoints.named(content)}
    known = {path: found for path, found in read.items() if found}
    newest = known.get(checkpoints.newest)
    if newest is None:
        return Standing(note="there is no checkpoint to compare it with", when=when)
    same = [path for path, found in known.items() if found[WEIGHTS] == content[WEIGHTS]]
    if checkpoints.newest in same:
        return Standing()
    if same:
        return Standing(note=f"of {same[0].name}; the run is at {_epoch(newest)}", when=when)
    return _without_checkpoint(content, newest, list(known.values()), when)


def judge_own(content: Mapping[str, Any], checkpoints: Checkpoints) -> Standing:
    """The same where the results.json lies right beside the checkpoints: what a training, or a
    study, found, unless a probe was told to write there."""
    if checkpoints.newest is None or not content.get(WEIGHTS):
        return Standing()
    begun = checkpoints.read(checkpoints.newest).get(BEGUN)
    return Standing() if begun == content[WEIGHTS] else judge(content, checkpoints)


def _epoch(found: Mapping[str, Any]) -> str:
    return "an unknown epoch" if found["epoch"] is None else f"epoch {found['epoch']}"


def _without_checkpoint(
    content: Mapping[str, Any], newest: Mapping[str, Any], known: list[dict[str, Any]], when: str
) -> Standing:
    """Of weights that are in none of the files: of an epoch of this run, or of something else."""
    run, its_run = content.get(RUN), newest[RUN]
    point = content.get("epoch"), content.get("step")
    if run and run == its_run and point not in [(one["epoch"], one["step"]) for one in known]:
        now = f"the run is at {_epoch(newest)}"
        return Standing(note=f"of {when}, whose checkpoint is gone; {now}", when=when)
    if run and its_run and run != its_run:
        return Standing(ours=False, note="it is of another run than the checkpoints here")
    return Standing(ours=False, note="it is of weights that no checkpoint here holds")
