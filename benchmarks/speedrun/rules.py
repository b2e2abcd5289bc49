"""The rules of the speedrun that a program can check; README.md has them in words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from torch import nn

from fastimae.models import create_model

SEEDS = (0, 1, 2)
"""Of a record, whose time and accuracy are the means over them."""
CORES = 2
"""On the CPU track."""
TRAIN_IMAGES = 50_000
VAL_IMAGES = (10_000, 2_000)
"""CIFAR-10's test images, or 200 of each class."""
LARGEST_ENCODER = 5_500_000
"""Trained parameters: ViT-Tiny's, 5.35 million with patches of 4 pixels and 5.49 with 16."""
JUDGE = {"pool": "avg", "epochs": 30, "warmup_epochs": 3, "batch_size": 512, "blr": 0.1, "seed": 0}
"""Flags of `fastimae-eval linear`, the same for all entries."""


class Track(NamedTuple):
    """A kind of machine, and the accuracy that a record must reach on it."""

    device: str
    target: float
    """Percent of the test images, by a linear probe."""
    hardware: str


TRACKS = {
    "cpu": Track("cpu", 50.0, "two CPU cores"),
    "gpu": Track("cuda", 70.0, "one GPU"),
}
_BY_THE_RUN = "the run sets it, for every entry alike"
_OTHER_DATA = "images are CIFAR-10's training images, which --ffcv of the run has"
_LABELS = "it needs labels"
_WEIGHTS = "training begins with fresh weights"
REFUSED = {
    **dict.fromkeys(("init", "teacher", "teacher_path", "allow_partial"), _WEIGHTS),
    **dict.fromkeys(("same_class_ratio", "same_prob", "pseudo_labels", "images_from"), _LABELS),
    **dict.fromkeys(("data_path", "dali", "dataset", "synthetic", "ffcv_ops"), _OTHER_DATA),
    **dict.fromkeys(
        ("ffcv", "label_field", "image_field", "output_dir", "log_dir", "device", "seed", "resume",
         "start_epoch", "config", "save_freq", "wandb", "val", "probe_freq"),
        _BY_THE_RUN,
    ),
}  # fmt: skip
"""Settings that an entry cannot have, and why."""


def broken_by(given: Mapping[str, Any], settings: Mapping[str, Any]) -> Iterator[str]:
    """Yield what an entry's settings break, a line each.

    given: those in its file, by flag name. settings: all that follow from them.
    """
    for name in sorted({name.replace("-", "_") for name in given} & REFUSED.keys()):
        yield f"{name}: {REFUSED[name]}"
    objective = str(given.get("objective", ""))
    if ":" in objective and not re.fullmatch(r"\w+\.py:\w+", objective):
        yield f"objective {objective}: its file is in the entry's folder, as file.py:Class"
    if set(settings["input_size"]) != {32}:
        yield f"input_size {settings['input_size']}: training ends with 32 pixels"
    model = create_model(settings["model"], img_size=32, decoder=False)
    yield from too_large(encoder_parameters(model))


def too_large(parameters: int) -> Iterator[str]:
    """Yield a line if an encoder has too many trained parameters."""
    if parameters > LARGEST_ENCODER:
        yield f"the encoder has {parameters:,} parameters, and may have {LARGEST_ENCODER:,}"


def encoder_parameters(model: nn.Module) -> int:
    """Count the trained parameters of a model's encoder; its positions are fixed."""
    return sum(
        weight.numel()
        for name, weight in model.named_parameters()
        if weight.requires_grad and not name.startswith(("decoder", "mask_token"))
    )
