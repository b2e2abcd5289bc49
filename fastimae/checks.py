"""Settings against each other, before anything is built: errors that name the flag to change."""

from __future__ import annotations

import math
from typing import Any

from fastimae.config import TrainConfig, flatten, height_and_width
from fastimae.recipes import RECIPES
from fastimae.settings import ConfigError, check_idle

_POSITIVE = (
    "batch_size", "epochs", "accum_iter", "save_freq", "log_steps", "in_chans",
    "num_heads", "decoder_embed_dim", "decoder_depth", "decoder_num_heads", "synthetic_samples",
    "clip_grad", "repeated_aug", "dist_timeout", "max_pixels",
)  # fmt: skip
_NOT_NEGATIVE = (
    "num_workers", "max_bad_samples", "save_steps", "vis_freq",
    "start_epoch", "weight_decay", "warmup_epochs", "lr", "blr", "min_lr",
)  # fmt: skip
_OF_IMAGES = ("max_pixels", "value_range", "crop", "crop_ratio")


def check(config: TrainConfig) -> None:
    """Raise ConfigError where a value is out of range, or would have no effect."""
    settings = flatten(config)
    given = {name: value for name, value in settings.items() if value is not None}
    for name in _POSITIVE:
        _require(given.get(name, 1) > 0, f"--{name} must be positive")
    for name in _NOT_NEGATIVE:
        _require(given.get(name, 0) >= 0, f"--{name} must not be negative")
    config.objective.check()
    _require(
        settings["start_epoch"] < settings["epochs"],
        "--start_epoch {start_epoch} is not below --epochs {epochs}".format(**settings),
    )
    _require(0 <= settings["hw_decoder_load"] <= 1, "--hw_decoder_load must lie in 0..1")
    _require(0 <= settings["dali_share"] < 1, "--dali_share must be 0 or more, and below 1")
    _require(
        0 < settings["min_crop"] <= settings["max_crop"] <= 1,
        "--min_crop and --max_crop: 0 < min <= max <= 1",
    )
    low, high = settings["crop_ratio"]
    _require(0 < low <= high < math.inf, "--crop_ratio LOW HIGH: 0 < LOW <= HIGH")
    low, high = settings["value_range"] or (0, 1)
    _require(
        low < high and math.isfinite(high - low),
        "--value_range LOW HIGH: LOW must be below HIGH, and both finite",
    )
    height_and_width(settings["input_size"])
    for name in ("compile", "cuda_graph"):
        _require(
            not settings["nan_check"] or settings[name] != "on",
            f"--nan_check looks into every step: drop --{name} on",
        )
    _require(
        settings["parallel"] == "ddp" or settings["opt"] == "adamw",
        "--parallel fsdp needs --opt adamw: apex takes no sharded parameters",
    )
    if config.objective.chosen.needs_partners:
        _check_mixing(settings)
    recipe = RECIPES.get(settings["recipe"] or "", dict)()
    check_idle(config.objective, recipe, settings["recipe"])
    _check_idle(settings)


def _check_mixing(settings: dict[str, Any]) -> None:
    group = settings["mix_group"] or settings["batch_size"] // settings["repeated_aug"]
    _require(
        group != 1,
        "an image would be mixed with itself: make --mix_group 2 or more (with --mix_group 0: "
        "--batch_size at least 2 x --repeated_aug)",
    )


def _check_idle(settings: dict[str, Any]) -> None:
    """A setting that was changed and would do nothing is a mistake, not a wish."""
    idle = (
        (not settings["synthetic"], ("synthetic_samples",), "without --synthetic"),
        (settings["synthetic"], _OF_IMAGES, "with --synthetic"),
        (settings["crop"] == "none", ("min_crop", "max_crop", "crop_ratio"), "with --crop none"),
        (not settings["ffcv"], ("decoder", "dali_share"), "without --ffcv"),
        (settings["decoder"] != "ffcv", ("ffcv_ops",), "without --decoder ffcv"),
        (not settings["ffcv"] and not settings["dali"], ("cache",), "without --ffcv or --dali"),
        (
            not settings["dali"] and not settings["dali_share"],
            ("hw_decoder_load",),
            "without --dali or --dali_share",
        ),
        (bool(settings["resume"]), ("start_epoch",), "with --resume"),
        (settings["kernels"] == "torch", ("attention",), "with --kernels torch"),
    )
    defaults = flatten(TrainConfig())
    recipe = RECIPES.get(settings["recipe"] or "", dict)()
    for applies, names, why in idle:
        for name in names:
            value, default = settings[name], defaults[name]
            of_recipe = name in recipe and recipe[name] == value
            whose = f" of --recipe {settings['recipe']}" if of_recipe else ""
            undo = f"add --{name} {default}" if of_recipe else "drop one of them"
            message = f"--{name}{whose} has no effect {why}: {undo}"
            _require(not applies or value == default, message)


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ConfigError(message)
