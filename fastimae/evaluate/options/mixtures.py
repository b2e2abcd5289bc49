"""Flags of the tasks about mixtures: separability, msem, semantics."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fastimae.config import OutputSettings
from fastimae.evaluate.options.base import SeveralOptions
from fastimae.evaluate.options.labels import LogisticSettings
from fastimae.evaluate.options.masks import MaskUnitOptions
from fastimae.loaders.settings import ReadSettings
from fastimae.models.settings import MASK_RATIO
from fastimae.settings import (
    Count,
    Expert,
    Idle,
    MixShare,
    NotNegative,
    PositiveInt,
    Seeded,
    Settings,
    Share,
)

Probe = Literal["linear", "finetune", "msem"]


@dataclasses.dataclass(kw_only=True)
class ComparisonOptions(MaskUnitOptions, SeveralOptions):
    """Options of separability and msem: a linear model, fitted and tested on different mixtures."""

    train_samples: PositiveInt = 10_000
    """Number of images to fit on."""
    val_samples: PositiveInt = 10_000
    """Number of images to test on."""

    def idle(self) -> Iterator[Idle]:
        yield Idle(not self.mask_ratio, ("mask_patch_size",), "with --mask_ratio 0")
        yield from super().idle()


@dataclasses.dataclass(kw_only=True)
class SeparabilityOptions(ComparisonOptions):
    """Distance from latents of mixtures to those of clean images, up to a linear map (M_ls).

    fastimae-eval separability --checkpoint imae.pth --teacher mae.pth --ffcv a.beton --val b.beton
    """

    teacher: Path
    """The MAE whose latents of clean images are the targets."""
    mix_ratios: tuple[MixShare, ...] = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45)
    """Weights of the subordinate image."""
    mask_ratio: float = MASK_RATIO
    """Share of patches that are masked."""
    ridge: Expert[NotNegative] = 1e-6
    """Ridge penalty of the closed form, as a share of the latents' variance."""
    steps: Expert[Count] = 1000
    """Steps of gradient descent for the trained regression."""


@dataclasses.dataclass(kw_only=True)
class MsemOptions(LogisticSettings, ComparisonOptions):
    """Accuracy of a linear classifier on the latents of mixtures (M_sem).

    fastimae-eval msem --checkpoint imae.pth --ffcv train.beton --val val.beton
    """

    mix_ratios: tuple[MixShare, ...] = (0.1, 0.2, 0.3, 0.4)
    """Weights of the subordinate image."""
    mask_ratio: float = 0.0
    """Share of patches that are masked."""


@dataclasses.dataclass(kw_only=True)
class SemanticsOptions(Settings):
    """Pre-train, probe and fine-tune i-MAE over same-class ratios; repeat the command to resume.

    Flags of fastimae-train come last, after --:

        fastimae-eval semantics --ffcv a.beton --val b.beton -- --recipe imae_cifar10
    """

    train_flags: tyro.conf.Positional[
        Annotated[tuple[str, ...], tyro.conf.arg(metavar="-- FLAGS OF fastimae-train")]
    ] = ()
    """Flags for every pre-training; the study sets data, ratio and output_dir."""
    ratios: tuple[Share, ...] = (0.0, 0.5, 1.0)
    """Shares of mixtures whose two images share a class."""
    tasks: tuple[Probe, ...] = ("linear", "finetune", "msem")
    """Tasks to run on each pre-trained model."""
    checkpoint: Path | None = None
    """A MAE trained without mixing, as the first row of the table."""
    ffcv: Path | None = None
    """The .beton file to train on."""
    data_path: Path | None = None
    """A folder of images instead, with a subfolder per class."""
    val: Path | None = None
    """The .beton file or folder to test on. None: the val/ in --data_path."""
    linear_flags: str = ""
    """Flags for fastimae-eval linear: --linear_flags="--epochs 50"."""
    finetune_flags: str = ""
    """Flags for fastimae-eval finetune, likewise."""
    msem_flags: str = ""
    """Flags for fastimae-eval msem, likewise."""
    config: Path | None = OutputSettings.config
    """YAML file of options, such as another study's run.yaml; flags override it."""
    output_dir: Path = Path("semantics")
    """Folder for the table, with a subfolder for each ratio."""
    device: str = OutputSettings.device
    """cuda, cuda:N, cpu, or auto."""
    num_workers: Count | None = ReadSettings.num_workers
    """Threads that decode images. None: one per core."""
    seed: int = Seeded.seed
    """Seed of every run of the study."""
    debug: Expert[bool] = False
    """Show tracebacks."""
