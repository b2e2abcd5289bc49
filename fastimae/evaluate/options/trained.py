"""Options of all tasks that load an encoder, and of those that train on it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from fastimae.engine.checkpoint_file import CheckpointError
from fastimae.engine.launcher import LaunchSettings
from fastimae.engine.plan import RunSettings
from fastimae.evaluate.options.base import TaskOptions
from fastimae.settings import Free, PositiveInt

if TYPE_CHECKING:
    import torch

    from fastimae.models import MaskedAutoencoder


@dataclasses.dataclass(kw_only=True)
class FreshOptions(TaskOptions):
    """The checkpoint's weights, or fresh ones."""

    random_init: bool = False
    """Use fresh weights of the same architecture: the baseline that pre-training must beat."""

    def folder(self, task: str) -> Path:
        """Return the folder for the task's results; the baseline has its own."""
        return super().folder(f"{task}-random" if self.random_init else task)

    def load_encoder(self, device: torch.device) -> MaskedAutoencoder:
        """Load the encoder of --checkpoint, frozen. Raises CheckpointError."""
        from fastimae.evaluate.features import load_encoder  # which imports torch

        return load_encoder(
            self.checkpoint, device,
            random_init=self.random_init, seed=self.seed, **self.of_model(),
        )  # fmt: skip


@dataclasses.dataclass(kw_only=True)
class LabelledRunSettings(RunSettings):
    """The training loop of `train_with_labels`, which tests the model after epochs."""

    val_freq: Free[PositiveInt] = 1
    """Epochs between tests; the first and the last one are tested, too."""

    def tests_after(self, epoch: int) -> bool:
        """Return whether to test after this epoch, from 0: as --save_freq counts, or the last."""
        return epoch + 1 == self.epochs or epoch % self.val_freq == 0


@dataclasses.dataclass(kw_only=True)
class TrainedOptions(LabelledRunSettings, LaunchSettings, FreshOptions):
    """Options of tasks that train, with MAE's names."""

    def check(self) -> None:
        """Raise ConfigError for values out of range, CheckpointError if --resume does not exist."""
        super().check()
        if self.resume not in ("", "auto") and not Path(self.resume).exists():
            raise CheckpointError(f"--resume: there is no checkpoint {self.resume}")

    def launch(self) -> LaunchSettings:
        """Return how processes find each other."""
        return self
