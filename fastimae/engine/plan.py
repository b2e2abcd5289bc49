"""The settings of the training loop: how long to train, how often to save, log and draw."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from fastimae.engine.resolution import ResolutionSettings
from fastimae.engine.settings import OptimSettings
from fastimae.machine import version
from fastimae.settings import (
    Count,
    Expert,
    FileNames,
    Free,
    Idle,
    NotNegative,
    PositiveInt,
    Seeded,
    Settings,
    flag,
)


@dataclasses.dataclass(kw_only=True)
class LoopSettings(Settings):
    """Resuming, saving and logging."""

    log_dir: Free[Path | None] = None
    """Folder of TensorBoard's files. None: output_dir."""
    resume: Free[FileNames] = ""
    """Checkpoint to resume from; auto: the last one in output_dir, if there is one."""
    start_epoch: Expert[Free[Count]] = 0
    """First epoch of a run that does not resume."""
    save_freq: Free[PositiveInt] = 20
    """Epochs between checkpoint-N.pth files; the last epoch, and an evaluation's best, are kept."""
    checkpoint_hist: Free[PositiveInt | None] = None
    """How many of the newest checkpoint-N.pth files to keep. None: all."""
    save_steps: Free[Count] = 0
    """Steps between saves of checkpoint-last.pth within an epoch; 0: only after each epoch."""
    save_seconds: Expert[Free[NotNegative]] = 0.0
    """Seconds between saves of checkpoint-last.pth, over short epochs and within long ones; 0: one
    after each epoch."""
    log_steps: Expert[Free[PositiveInt]] = 20
    """Steps between readings of the loss (each one waits for the GPU)."""
    preempt_signal: Expert[Free[Literal["SIGUSR1", "SIGUSR2", "SIGHUP", "SIGXCPU"]]] = "SIGUSR1"
    """Signal to save and stop, like SIGTERM: the one a scheduler sends before it takes a node."""
    wandb: Free[Annotated[str, flag(metavar="PROJECT")] | None] = None
    """Project of Weights & Biases to log to, too (docs/output.md). None: off."""
    profile: Free[bool] = False
    """Write a trace of steps 20 to 30 to output_dir, for ui.perfetto.dev."""

    def check(self) -> None:
        super().check()
        self.require(
            not self.wandb or version("wandb") is not None,
            "--wandb needs wandb, which is not installed: pip install 'fastimae[wandb]'",
        )

    def idle(self) -> Iterator[Idle]:
        yield from super().idle()
        yield Idle(bool(self.resume), ("start_epoch",), "with --resume")


@dataclasses.dataclass(kw_only=True)
class RunSettings(LoopSettings, OptimSettings):
    """The training loop and its optimizer."""

    def check(self) -> None:
        super().check()
        self.require(
            self.start_epoch < self.epochs,
            f"--start_epoch {self.start_epoch} is not below --epochs {self.epochs}",
        )


@dataclasses.dataclass(kw_only=True)
class Plan(ResolutionSettings, RunSettings, Seeded):
    """All settings that a `Trainer` follows."""

    vis_freq: Count = 20
    """Epochs between pictures; 0: only at the end."""
