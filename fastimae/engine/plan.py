"""How long to train, and how often to do what."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from fastimae.engine.optim import OptimSettings
from fastimae.settings import Count, Free, Idle, PositiveInt, Seeded, Settings


@dataclasses.dataclass(kw_only=True)
class LoopSettings(Settings):
    """Where a run goes on, and what it leaves behind."""

    log_dir: Free[Path | None] = None
    """TensorBoard files. None: in output_dir."""
    resume: Free[str] = ""
    """A checkpoint to go on from; auto: the last one in output_dir, if there is one."""
    start_epoch: Free[Count] = 0
    """First epoch of a run that does not resume."""
    save_freq: Free[PositiveInt] = 20
    """Epochs between checkpoint-N.pth files; the last epoch, and a classifier's best, are kept."""
    checkpoint_hist: Free[PositiveInt | None] = None
    """Of the checkpoint-N.pth files, keep the newest so many. None: all."""
    save_steps: Free[Count] = 0
    """Steps between saves of checkpoint-last.pth within an epoch; 0: each epoch only."""
    log_steps: Free[PositiveInt] = 20
    """Steps between readings of the loss (each waits for the GPU)."""
    preempt_signal: Free[Literal["SIGUSR1", "SIGUSR2", "SIGHUP", "SIGXCPU"]] = "SIGUSR1"
    """Asks to save and stop, as SIGTERM does: what the scheduler sends before it takes a node."""
    profile: Free[bool] = False
    """Write a trace of steps 20 to 30 to output_dir, for ui.perfetto.dev."""

    def idle(self) -> Iterator[Idle]:
        yield from super().idle()
        yield Idle(bool(self.resume), ("start_epoch",), "with --resume")


@dataclasses.dataclass(kw_only=True)
class RunSettings(LoopSettings, OptimSettings):
    """How long to train, how fast, and what to leave behind."""

    def check(self) -> None:
        super().check()
        self.require(
            self.start_epoch < self.epochs,
            f"--start_epoch {self.start_epoch} is not below --epochs {self.epochs}",
        )


@dataclasses.dataclass(kw_only=True)
class Plan(RunSettings, Seeded):
    """What a `Trainer` follows."""

    vis_freq: Count = 20
