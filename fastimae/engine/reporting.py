"""A run's reports while it trains: its run.yaml, its sinks and the progress bar."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from fastimae.engine.checkpoint_file import RUN
from fastimae.engine.log_file import LogFile
from fastimae.engine.metrics import Reporter
from fastimae.engine.run_file import FINISHED, STOPPED
from fastimae.engine.sink import RunToReport, Sink
from fastimae.engine.tensorboard_log import TensorBoardLog
from fastimae.engine.wandb_log import WandbLog

if TYPE_CHECKING:
    from fastimae.engine.trainer import Trainer


@contextlib.contextmanager
def reporting(trainer: Trainer) -> Iterator[Reporter]:
    """Open the reports of a trainer that is about to train, and close them after the block.

    run.yaml says how the block ended.
    """
    per_epoch = trainer.updates_per_epoch
    start = {"run": _run_id(trainer), "epoch": round(trainer.point, 4)}
    with (
        contextlib.ExitStack() as opened,
        trainer.run_file.recording(trainer.world, **start) as entry,
    ):
        reporter = Reporter(
            trainer.world, _open_sinks(trainer), epochs=trainer.plan.epochs,
            total=trainer.plan.epochs * per_epoch,
            done=trainer.epoch * per_epoch + trainer.update,
        )  # fmt: skip
        opened.callback(lambda: reporter.close(entry["outcome"]))
        yield reporter
        entry["outcome"] = FINISHED if trainer.finished else STOPPED


def _open_sinks(trainer: Trainer) -> list[Sink]:
    """Open the sinks in the main process; other processes have none."""
    if not trainer.world.is_main:
        return []
    run = RunToReport(
        folder=trainer.output_dir,
        log_dir=trainer.log_dir,
        id=_run_id(trainer),
        settings=trainer.run_file.settings,
        epoch=trainer.epoch,
        point=round(1000 * trainer.point),
        is_new=trainer.run_file.is_new,
    )
    sinks = [LogFile(run), TensorBoardLog(run)]
    if trainer.plan.wandb:
        sinks.append(WandbLog(run, trainer.plan.wandb))
    return sinks


def _run_id(trainer: Trainer) -> str:
    return trainer.args.get(RUN, "")
