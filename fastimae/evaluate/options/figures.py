"""Flags of the tasks that draw: reconstruct, attention, weights, tsne."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from fastimae.evaluate.options.base import Pool, SeveralOptions
from fastimae.evaluate.options.labels import ProbeOptions
from fastimae.evaluate.options.masks import MaskUnitOptions
from fastimae.pictures.settings import PictureSettings
from fastimae.settings import (
    Count,
    Idle,
    MaskShare,
    MixShare,
    PositiveFloat,
    PositiveInt,
    PositiveShare,
)

MEASURED = 64
"""Images that reconstruct measures at a masking ratio, unless it is told."""


@dataclasses.dataclass(kw_only=True)
class ReconstructOptions(PictureSettings, MaskUnitOptions, SeveralOptions):
    """Reconstructions over mixing and masking ratios, by one model or several side by side.

    fastimae-eval reconstruct --checkpoint imae.pth --others mae.pth --val val.beton
    """

    mix_ratios: tuple[MixShare, ...] = (0.05, 0.15, 0.25, 0.35, 0.45)
    """Weights of the subordinate image, for i-MAE."""
    mask_ratios: tuple[MaskShare, ...] = (0.5, 0.6, 0.7, 0.75, 0.8, 0.9)
    """Shares of patches that are masked. 0: the whole image goes through encoder and decoder."""
    samples: Count | None = None
    """Number of images to measure; 0: all. None: 64, and all where nothing is masked."""
    pictures: PositiveInt = 3
    """How many of them, with their partners, to draw."""

    def idle(self) -> Iterator[Idle]:
        masked = any(self.mask_ratios)
        yield Idle(not masked, ("mask_patch_size",), "with --mask_ratios 0: nothing is masked")
        yield from super().idle()

    def samples_at(self, mask_ratio: float) -> int | None:
        """Return how many images to measure at a masking ratio; None: all."""
        if self.samples is not None:
            return self.samples or None
        return MEASURED if mask_ratio else None


@dataclasses.dataclass(kw_only=True)
class AttentionOptions(PictureSettings, SeveralOptions):
    """Attention maps of the class token, or of a patch, and their width: one model or several.

    fastimae-eval attention --checkpoint mae.pth --others imae.pth --val val.beton
    """

    token: tuple[int, int] | None = None
    """Row and column (from 0) of the patch whose attention is drawn. None: the class token."""
    layers: tuple[int, ...] = ()
    """Blocks to draw and measure, from 0; -1 is the last. Empty: all. Models side by side are drawn
    at the last of them."""
    mass: PositiveShare = 0.6
    """Draw and count only the patches that together get this share of the attention, as in DINO;
    1: all."""
    samples: PositiveInt = 4
    """Number of images to draw."""
    measured: PositiveInt = 64
    """Number of images to measure; at least those that are drawn."""


@dataclasses.dataclass(kw_only=True)
class WeightsOptions(SeveralOptions):
    """Distributions of weights, and how sparse they are: one model or several.

    fastimae-eval weights --checkpoint mae.pth --others imae.pth
    """


@dataclasses.dataclass(kw_only=True)
class TsneOptions(SeveralOptions):
    """Features of images as points in the plane, coloured by class (t-SNE): one model or several.

    fastimae-eval tsne --checkpoint mae.pth --others imae.pth --val val.beton --classes 10
    """

    samples: PositiveInt = 2000
    """Number of images, chosen at random."""
    pool: Pool = "avg"
    """Feature of an image: the class token (cls) or the mean of the patches (avg)."""
    layer: int | None = ProbeOptions.layer
    """Block whose output these are, from 0; -1 is the last. None: the last."""
    classes: PositiveInt | None = None
    """Draw only so many classes, chosen at random by the seed. None: all."""
    class_names: tuple[str, ...] = ()
    """Draw these classes only, by name; by number if the data have no names."""
    perplexity: PositiveFloat = 20.0
    """About how many neighbours t-SNE gives each point: that of the hierarchical paper. Lowered if
    there are few images."""

    def check(self) -> None:
        """Raise ConfigError for values out of range, and for both --classes and --class_names."""
        super().check()
        self.require(
            self.classes is None or not self.class_names,
            "--classes and --class_names both choose classes: give one",
        )
