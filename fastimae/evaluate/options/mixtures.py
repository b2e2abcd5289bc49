"""Flags of the tasks about mixtures: separability, mixtureprobe."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from fastimae.evaluate.options.base import SeveralOptions
from fastimae.evaluate.options.labels import LogisticSettings
from fastimae.evaluate.options.masks import MaskUnitOptions
from fastimae.models.settings import MASK_RATIO, HeadSpace
from fastimae.settings import (
    Count,
    Expert,
    Idle,
    MixShare,
    NotNegative,
    PositiveFloat,
    PositiveInt,
)

PAPER_SAMPLES, PAPER_RATIO = 100, 0.3
"""Images and mixing ratio of the i-MAE paper's table 2."""


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
