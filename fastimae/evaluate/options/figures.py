"""Flags of the tasks that draw: reconstruct, attention, weights, tsne."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from fastimae.evaluate.options.base import EvalOptions, Pool, SeveralOptions
from fastimae.evaluate.options.masks import MaskUnitOptions
from fastimae.settings import Count, Idle, MaskShare, MixShare, PositiveFloat, PositiveInt

MEASURED = 64
"""Images that reconstruct measures at a masking ratio, unless it is told."""


@dataclasses.dataclass(kw_only=True)
class ReconstructOptions(MaskUnitOptions, SeveralOptions):
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
class AttentionOptions(EvalOptions):
    """Attention maps of the class token, or of a patch: a picture per image, by layer and head.

    fastimae-eval attention --checkpoint mae.pth --val val.beton
    """

    token: tuple[int, int] | None = None
    """Row and column (from 0) of the patch whose attention is drawn. None: the class token."""
    layers: tuple[int, ...] = ()
    """Blocks to draw, from 0; -1 is the last. Empty: all."""
    samples: PositiveInt = 4
    """Number of images to draw."""


@dataclasses.dataclass(kw_only=True)
class WeightsOptions(EvalOptions):
    """Distributions of the weights of every layer: a figure, and mean, deviation and kurtosis.

    fastimae-eval weights --checkpoint mae.pth
    """


@dataclasses.dataclass(kw_only=True)
class TsneOptions(EvalOptions):
    """Features of images as points in the plane, coloured by class (t-SNE).

    fastimae-eval tsne --checkpoint mae.pth --val val.beton
    """

    samples: PositiveInt = 2000
    """Number of images, chosen at random."""
    pool: Pool = "avg"
    """Feature of an image: the class token (cls) or the mean of the patches (avg)."""
    perplexity: PositiveFloat = 30.0
    """About how many neighbours t-SNE gives each point; lowered if there are few images."""
