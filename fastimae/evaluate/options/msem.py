"""Flags of msem: fine-tuning as in the i-MAE paper, and what differs from it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from fastimae.engine.checkpoint_file import CheckpointError
from fastimae.evaluate.options.finetune import TuningOptions
from fastimae.evaluate.options.finetune_recipes import OF_IMAE
from fastimae.evaluate.options.labels import EncoderOptions
from fastimae.loaders.images.crops import RATIO
from fastimae.settings import ConfigError, Free, free_settings, plain_value
from fastimae.trained import training_settings

_STEP = ("batch_size", "accum_iter")
_HOW = ("precision", "nan_check")
"""Settings of how a step is computed, not of what is learned."""


@dataclasses.dataclass(kw_only=True)
class MsemOptions(TuningOptions):
    """M_sem of the i-MAE paper: accuracy and cross-entropy after its fine-tuning with Mixup.

    fastimae-eval msem --recipe imae_cifar10 --checkpoint imae.pth --ffcv a.beton --val b.beton
    """

    recorded = ("recipe",)  # which the results are compared with

    recipe: Free[str | None] = None
    """The paper's fine-tuning (table 7); flags that override its settings are named in the results.
    None: that of the recipe of pre-training."""

    def check(self) -> None:
        """Raise ConfigError for values that cannot work, and if no recipe can be decided."""
        super().check()
        if self.recipe in OF_IMAE:
            return
        if not self.checkpoint.exists():
            raise CheckpointError(f"there is no checkpoint {self.checkpoint}")
        *some, last = OF_IMAE
        raise ConfigError(
            f"{self.checkpoint} names no recipe of the i-MAE paper: say which of its fine-tunings "
            f"fits, as --recipe {', '.join(some)} or {last}"
        )


def recipe_for(checkpoint: Path) -> str | None:
    """Return the paper's fine-tuning for the recipe that a model was pre-trained by, if any.

    The recipe of pre-training has the same name, or adds a word to it: imae_cifar10_subordinate.
    """
    trained = str(training_settings(checkpoint).get("recipe"))
    fits = [name for name in OF_IMAE if trained == name or trained.startswith(f"{name}_")]
    return fits[0] if fits else None


def changes(options: MsemOptions, effective_batch: int) -> dict[str, tuple[Any, Any]]:
    """Return the settings that differ from the recipe: each with (its value, the recipe's).

    effective_batch: images per step of all processes. Not compared: the model, the images, and how
    fast and where the run computes.
    """
    recipe = OF_IMAE[str(options.recipe)]()
    defaults = {field.name: field.default for field in dataclasses.fields(options)}
    others = {field.name for field in dataclasses.fields(EncoderOptions)}
    ignored = others | free_settings() | {*_STEP, *_HOW}
    asked = {name: plain_value(getattr(options, name)) for name in defaults if name not in ignored}
    asked["crop_ratio"] = asked["crop_ratio"] or plain_value(RATIO)
    asked["effective_batch"] = effective_batch
    wanted = {name: plain_value({**defaults, **recipe}[name]) for name in asked.keys() & defaults}
    wanted["crop_ratio"] = plain_value(RATIO)
    wanted["effective_batch"] = recipe["batch_size"] * recipe.get("accum_iter", 1)
    return {name: (asked[name], wanted[name]) for name in asked if asked[name] != wanted[name]}


def in_words(changed: dict[str, tuple[Any, Any]]) -> str:
    """Return the outcome of `changes` as text; "" if nothing differs."""
    pairs = {name: [_shown(value) for value in values] for name, values in changed.items()}
    return "; ".join(f"{name} {value}, not {wanted}" for name, (value, wanted) in pairs.items())


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
