"""The options of `fastimae-bench`, and the training settings that follow from them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from fastimae.arguments import UsageError
from fastimae.config import OutputSettings, TrainConfig, config_with, updated
from fastimae.cpus import worker_count
from fastimae.engine.settings import Precision, SpeedSettings
from fastimae.loaders.beton.fields import NO_LABELS
from fastimae.loaders.settings import ReadSettings, SourceSettings
from fastimae.loaders.sources.what_is import BETON, check_is
from fastimae.objectives.choice import ObjectiveConfig, ObjectiveName, find_objective
from fastimae.settings import Count, Expert, FileNames, PositiveFloat, PositiveInt, Settings

if TYPE_CHECKING:
    import torch

SAMPLES = 100_000
"""Size of the synthetic data set."""


@dataclasses.dataclass(kw_only=True)
class BenchOptions(Settings):
    """Measure how fast this machine loads and trains, and name the bottleneck.

    Three measurements: the loader alone, as with --cache none; the training step alone, on
    synthetic images; and both together. The slower of the first two is the bottleneck, and the
    flags that would help are named. Then other values of --num_workers and --batch_size are tried,
    and the best are suggested for fastimae-train. Takes about a minute on a CPU, and up to five on
    a GPU, where each batch size is compiled first. Use an otherwise idle machine.

        fastimae-bench imagenet.beton
        fastimae-bench cifar10.beton --objective imae --model mae_vit_tiny_patch4 --input_size 32
    """

    data: tyro.conf.Positional[Annotated[Path | None, tyro.conf.arg(metavar="F.beton")]] = None
    """The .beton file to train on, from fastimae-convert. Without it, only the step is measured."""
    image_field: Expert[str | None] = None
    """Image field of the .beton. None: the one called image, or the only one."""
    dataset: FileNames | None = SourceSettings.dataset
    """file.py:function or module:function that returns your own Dataset, in place of F.beton."""
    model: str = "mae_vit_base_patch16"
    """Name of the model. This flag and the next ones are as in fastimae-train."""
    objective: ObjectiveName = ObjectiveConfig.objective
    """i-MAE is measured with a teacher of the student's size."""
    input_size: PositiveInt = 224
    """Side of the images in pixels."""
    in_chans: PositiveInt = SourceSettings.in_chans
    """Channels of the images."""
    batch_size: PositiveInt | None = None
    """Images per step. None: 128 on a GPU, 32 on a CPU."""
    num_workers: Count | None = ReadSettings.num_workers
    """Decoder threads. None: one per core."""
    precision: Precision = SpeedSettings.precision
    """Number format of the step."""
    device: str = OutputSettings.device
    """cuda, cuda:N, cpu, or auto."""
    seconds: PositiveFloat | None = None
    """Seconds for everything. None: 60 on a CPU, 300 on a GPU. The first step may take longer."""
    suggest: bool = True
    """Try other --num_workers and --batch_size; --no_suggest measures only the given ones."""
    debug: Expert[bool] = False
    """Show tracebacks."""


def settings(options: BenchOptions, device: torch.device) -> TrainConfig:
    """Return the settings of the training run to measure. Raises UsageError or ConfigError."""
    options.check()
    if options.data is None and options.image_field is not None:
        raise UsageError(f"--image_field {options.image_field} is for a .beton file")
    if options.data is not None:
        check_is(options.data, BETON)
    if options.data is not None and options.dataset is not None:
        raise UsageError(f"both {options.data} and --dataset {options.dataset}: give one of them")
    batch_size = options.batch_size
    if batch_size is None:
        batch_size = 128 if device.type == "cuda" else 32
    config = changed(
        config_with(options.objective),
        model=options.model,
        objective=options.objective,
        input_size=[options.input_size],
        in_chans=options.in_chans,
        batch_size=batch_size,
        num_workers=worker_count(options.num_workers),
        precision=options.precision,
        **pairing_flags(options.objective, batch_size),
        **data_settings(options.data, options.image_field, options.dataset),
    )
    config.check()
    return config


def pairing_flags(objective: str, batch_size: int) -> dict[str, object]:
    """Return flags for a batch size that the objective's mix_group does not divide: no groups."""
    found = find_objective(objective)
    group = found.needs_partners and found.Settings.mix_group
    return {"mix_group": 0} if group and batch_size % group else {}


def data_settings(
    data: Path | None, image_field: str | None = None, dataset: str | None = None
) -> dict[str, object]:
    """Return flags for the data: a .beton file without its labels, a dataset, or synthetic
    images."""
    none = data is None and dataset is None
    synthetic = {"synthetic": True, "synthetic_samples": SAMPLES} if none else {}
    label_field = None if data is None else NO_LABELS
    # Decoders are what is measured, also of data that a run would keep on the GPU.
    fields = {"label_field": label_field, "image_field": image_field, "cache": "none"}
    return {"ffcv": data, "dataset": dataset, **fields, **synthetic}


def changed(config: TrainConfig, **flags: object) -> TrainConfig:
    """Return a copy of the run's settings with other flags."""
    return updated(config, flags, lambda _: "fastimae-bench")
