"""What a trainer writes when it saves: checkpoint-last.pth, and numbered copies of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fastimae.engine.checkpoint import LAST, CheckpointError, numbered_checkpoints, save_checkpoint
from fastimae.engine.parallel import is_sharded
from fastimae.engine.sharded import save_sharded
from fastimae.engine.statistics import statistics_of_all
from fastimae.log import log

if TYPE_CHECKING:
    from fastimae.engine.trainer import Trainer


def write_checkpoints(trainer: Trainer, also: Path | None, *, last: bool) -> None:
    """Write a trainer's checkpoint-last.pth, and a copy under the name `also` if given.

    last: of the run, so that a failure is an error; otherwise it is a warning. Older numbered
    checkpoints than --checkpoint_hist are removed. Raises CheckpointError.
    """
    path, world = trainer.output_dir / LAST, trainer.world
    more = statistics_of_all(trainer.objective, world)
    try:
        if is_sharded(trainer.objective):
            save_sharded(path, trainer.state_dict() | more, world, also)
        elif world.is_main:
            save_checkpoint(path, trainer.state_dict() | more, also)
    except CheckpointError as error:
        if last:
            raise
        log.warning("%s; the run continues, and saves again later", error)
        return
    if also and world.is_main and trainer.plan.checkpoint_hist:
        # After a resume from an earlier epoch there may be files of later ones, which stay.
        kept = numbered_checkpoints(trainer.output_dir)
        for old in kept[: kept.index(also) + 1][: -trainer.plan.checkpoint_hist]:
            old.unlink()
