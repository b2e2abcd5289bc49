"""Options of tasks that train a model, and with --eval test one that they have trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from fastimae.engine.launcher import LaunchSettings
from fastimae.evaluate.options.base import TaskOptions
from fastimae.evaluate.options.labels import BEST
from fastimae.interop.options import ModelOptions
from fastimae.settings import ConfigError, Idle


def names_of(*groups: type) -> set[str]:
    """Return the names of the settings in groups."""
    return {field.name for group in groups for field in dataclasses.fields(group)}


_ALWAYS = names_of(TaskOptions, LaunchSettings) - names_of(ModelOptions)


class Retested:
    """Where the model of finetune, segment and detect is from.

    No dataclass, so that it has no fields, whose defaults would replace those of classes after it.
    """

    task: ClassVar[str]
    """The task's name, which its folder has, too."""
    tested_with: ClassVar[frozenset[str]]
    """Settings that --eval follows, besides those that every task has; others train."""

    if TYPE_CHECKING:  # the options that it is part of have these
        checkpoint: Path | None
        output_dir: Path | None
        resume: str
        eval: bool

    def check(self) -> None:
        """Raise ConfigError for values that are out of range, missing, or do not fit together."""
        super().check()
        if self.checkpoint is None and not self.eval:
            raise ConfigError("give the pre-trained model as --checkpoint FILE")
        if self.checkpoint is None and not self.output_dir and not self._named:
            raise ConfigError("--eval: name the model as --resume FILE or --output_dir DIR")

    def idle(self) -> Iterator[Idle]:
        """As in `Settings`: with --eval, all that only a training follows."""
        yield from super().idle()
        used = {*_ALWAYS, "eval", "resume", "recipe", "precision", *self.tested_with}
        names = (field.name for field in dataclasses.fields(self) if field.name not in used)
        yield Idle(self.eval, tuple(names), "with --eval")

    @property
    def _named(self) -> bool:
        """Whether --resume names a file."""
        return self.resume not in ("", "auto")

    def folder(self, task: str) -> Path:
        """Return the folder for results; with --eval and no other, that of the --resume file."""
        if self.checkpoint is None and self.output_dir is None:
            return Path(self.resume).parent
        return super().folder(task)

    def source(self) -> Path:
        """Return the checkpoint; with --eval the model: --resume FILE, else the run's best."""
        if not self.eval:
            return super().source()
        return Path(self.resume) if self._named else self.folder(self.task) / BEST
