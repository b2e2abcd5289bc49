"""Flags of the tasks about mixtures: separability, mixtureprobe, semantics."""

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
from fastimae.models.settings import MASK_RATIO, HeadSpace
from fastimae.settings import (
    Count,
    Expert,
    Idle,
    MixShare,
    NotNegative,
    PositiveFloat,
    PositiveInt,
    Seeded,
    Settings,
    Share,
)

PAPER_SAMPLES, PAPER_RATIO = 100, 0.3
"""Images and mixing ratio of the i-MAE paper's table 2."""
Probe = Literal["linear", "finetune", "mixtureprobe"]


@dataclasses.dataclass(kw_only=True)
class ComparisonOptions(MaskUnitOptions, SeveralOptions):
    """A linear model, fitted and tested on different mixtures: separability, mixtureprobe."""

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
    space: HeadSpace | None = None
    """Latents before decoder_embed (encoder: the paper's text) or behind it (its code). None: where
    the heads of --checkpoint are."""
    protocol: Literal["held_out", "paper"] = "held_out"
    """held_out: map in closed form, measured on other images. paper: trained, as in its table 2."""
    mix_ratios: tuple[MixShare, ...] = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45)
    """Weights of the subordinate image."""
    mask_ratio: float = MASK_RATIO
    """Share of patches that are masked."""
    ridge: Expert[NotNegative] = 1e-6
    """Ridge penalty of the closed form, as a share of the latents' variance."""
    steps: Expert[Count] = 1000
    """Steps of gradient descent for the trained regression."""
    tokens: Expert[Literal["all", "patches"]] = "all"
    """The tokens that are compared; patches: without the class token."""
    regression_epochs: Expert[PositiveInt] = 2000
    """Epochs of the linear layer of --protocol paper; the paper: 2000, on ImageNet 5000."""
    regression_lr: Expert[PositiveFloat] = 1e-3
    """Learning rate of that layer; the paper does not say."""

    def check(self) -> None:
        super().check()
        lost = self.protocol == "paper" and PAPER_SAMPLES % self.batch_size == 1
        self.require(
            not lost,
            f"--batch_size {self.batch_size} leaves one of {PAPER_SAMPLES} images without a "
            "partner: use another",
        )

    def idle(self) -> Iterator[Idle]:
        paper = self.protocol == "paper"
        fixed = ("train_samples", "val_samples", "mix_ratios", "steps")
        values = f"{PAPER_SAMPLES} images, mixing ratio {PAPER_RATIO}"
        yield Idle(paper, fixed, f"with --protocol paper ({values})")
        trained = ("regression_epochs", "regression_lr")
        yield Idle(not paper, trained, "without --protocol paper")
        yield from super().idle()

    def of_protocol(self) -> SeparabilityOptions:
        """Return the options with the samples and the mixing ratio that the protocol fixes."""
        if self.protocol == "held_out":
            return self
        fixed = {"train_samples": PAPER_SAMPLES, "val_samples": PAPER_SAMPLES}
        return dataclasses.replace(self, mix_ratios=(PAPER_RATIO,), **fixed)


@dataclasses.dataclass(kw_only=True)
class MixtureprobeOptions(LogisticSettings, ComparisonOptions):
    """Accuracy of a linear classifier on the latents of mixtures.

    fastimae-eval mixtureprobe --checkpoint imae.pth --ffcv train.beton --val val.beton
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
    tasks: tuple[Probe, ...] = ("linear", "finetune", "mixtureprobe")
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
    mixtureprobe_flags: str = ""
    """Flags for fastimae-eval mixtureprobe, likewise."""
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
