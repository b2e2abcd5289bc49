"""Flags of the tasks about mixtures: separability, msem."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from fastimae.evaluate.options.base import SeveralOptions
from fastimae.evaluate.options.labels import LogisticSettings
from fastimae.models.settings import MASK_RATIO
from fastimae.settings import (
    Count,
    Expert,
    MixShare,
    NotNegative,
    PositiveInt,
)


@dataclasses.dataclass(kw_only=True)
class ComparisonOptions(SeveralOptions):
    """Options of separability and msem: a linear model, fitted and tested on different mixtures."""

    train_samples: PositiveInt = 10_000
    """Number of images to fit on."""
    val_samples: PositiveInt = 10_000
    """Number of images to test on."""


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
