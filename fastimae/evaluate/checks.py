"""Numbers that no task can work with, found before anything is read or computed."""

from __future__ import annotations

from typing import Any

from fastimae.config import ConfigError

_POSITIVE = (
    "batch_size", "epochs", "accum_iter", "save_freq", "log_steps", "clip_grad", "dist_timeout",
    "nb_classes", "input_size", "recount", "samples", "train_samples", "val_samples", "pictures",
    "k", "temperature", "shots", "draws", "c", "perplexity",
)  # fmt: skip
_NOT_NEGATIVE = (
    "num_workers", "weight_decay", "warmup_epochs", "lr", "blr", "min_lr", "start_epoch",
    "save_steps", "mixup", "cutmix", "ridge", "steps",
)  # fmt: skip


def check_numbers(options: Any) -> None:
    """Raise ConfigError where an option of any task is out of range."""
    for name in _POSITIVE:
        if not all(value > 0 for value in _values(options, name)):
            raise ConfigError(f"--{name} must be positive")
    for name in _NOT_NEGATIVE:
        if not all(value >= 0 for value in _values(options, name)):
            raise ConfigError(f"--{name} must not be negative")


def _values(options: Any, name: str) -> tuple[float, ...]:
    """None where the task has no such option, or none is given. Raises ConfigError for no value."""
    value = getattr(options, name, None)
    if value == ():
        raise ConfigError(f"--{name} needs a value")
    return value if isinstance(value, tuple) else () if value is None else (value,)
