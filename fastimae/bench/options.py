"""The options of `fastimae-bench`, and the training settings that they stand for."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import torch
import tyro

from fastimae.arguments import UsageError
from fastimae.config import OutputSettings, TrainConfig, config_with, updated
from fastimae.engine.precision import Precision
from fastimae.engine.prepare import SpeedSettings
from fastimae.loaders.beton_fields import NO_LABELS
from fastimae.loaders.what_is import BETON, check_is
from fastimae.machine import usable_cores
from fastimae.objectives.choice import Name, ObjectiveConfig, find
from fastimae.settings import Count, PositiveFloat, PositiveInt, Settings

SAMPLES = 100_000
"""Images that a made-up data set pretends to have."""


@dataclasses.dataclass(kw_only=True)
class BenchOptions(Settings):
    """Measure how fast this machine loads and trains, and say what holds it back.

    Three measurements: the loader alone; the training step alone, on made-up images; and both
    together, as a run has them. The slower of the first two is the bottleneck, and the flag that
    would move it is named. Then other values of --num_workers and --batch_size are tried, and the
    best are suggested for fastimae-train. Takes about a minute on a CPU, and up to five on a GPU,
    where every batch size is compiled first; use a machine with nothing else to do.

        fastimae-bench imagenet.beton
        fastimae-bench cifar10.beton --objective imae --model mae_vit_tiny_patch4 --input_size 32
    """

    data: tyro.conf.Positional[Annotated[Path | None, tyro.conf.arg(metavar="F.beton")]] = None
    """The .beton file to train on, made by fastimae-convert. Without one, the step alone."""
    image_field: str | None = None
    """Which field of a .beton file of several is the image."""
    model: str = "mae_vit_base_patch16"
    """As for fastimae-train, like the flags that follow."""
    objective: Name = ObjectiveConfig.objective
    """i-MAE is measured with a teacher of the student's size."""
    input_size: PositiveInt = 224
    """Pixels of a side."""
    batch_size: PositiveInt | None = None
    """Images of a step. None: 128 on a GPU, 32 on a CPU."""
    num_workers: Count | None = None
    """Threads that decode. None: one for each core, at most 16."""
    precision: Precision = SpeedSettings.precision
    """Number format of the step."""
    device: str = OutputSettings.device
    """cuda, cuda:N, cpu, or auto."""
    seconds: PositiveFloat | None = None
    """Time for all of it. None: 60 on a CPU, 300 on a GPU. The first step may take longer."""
    suggest: bool = True
    """Try other workers and batch sizes; --no_suggest measures the given ones only."""
    debug: bool = False
    """Show tracebacks."""


def settings(options: BenchOptions, device: torch.device) -> TrainConfig:
    """The training run that the options describe. Raises UsageError or ConfigError."""
    options.check()
    if options.data is None and options.image_field is not None:
        raise UsageError(f"--image_field {options.image_field} is for a .beton file")
    if options.data is not None:
        check_is(options.data, BETON)
    batch_size = options.batch_size
    if batch_size is None:
        batch_size = 128 if device.type == "cuda" else 32
    config = changed(
        config_with(options.objective),
        model=options.model,
        objective=options.objective,
        input_size=[options.input_size],
        batch_size=batch_size,
        num_workers=cores() if options.num_workers is None else options.num_workers,
        precision=options.precision,
        **pairs_for(options.objective, batch_size),
        **data_settings(options.data, options.image_field),
    )
    config.check()
    return config


def pairs_for(objective: str, batch_size: int) -> dict[str, object]:
    """Flags for a batch that is no multiple of the objective's group: partners from all of it."""
    found = find(objective)
    group = found.needs_partners and found.Settings.mix_group
    return {"mix_group": 0} if group and batch_size % group else {}


def data_settings(data: Path | None, image_field: str | None = None) -> dict[str, object]:
    """Flags that name the data: a .beton file, whose labels are not needed, or made-up images."""
    made_up = {"synthetic": True, "synthetic_samples": SAMPLES} if data is None else {}
    label_field = None if data is None else NO_LABELS
    return {"ffcv": data, "label_field": label_field, "image_field": image_field, **made_up}


def changed(config: TrainConfig, **flags: object) -> TrainConfig:
    """The same run with other flags."""
    return updated(config, flags, "fastimae-bench")


def cores() -> int:
    """Threads to decode with: one for each core that this process may use, at most 16."""
    return min(usable_cores(), 16)
