"""Flags of cka: which views of an image are compared, and how."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Literal

from fastimae.evaluate.options.base import SeveralOptions
from fastimae.evaluate.options.figures import TsneOptions
from fastimae.evaluate.options.masks import MaskUnitOptions
from fastimae.settings import Idle, MaskShare, PositiveInt

CkaPool = Literal["avg", "cls", "common", "tokens"]
"""What of an image is compared: see `fastimae.evaluate.figures.occlusion.compared`."""
FEWEST_IMAGES = 4
"""The unbiased estimate of CKA needs them."""


@dataclasses.dataclass(kw_only=True)
class CkaOptions(MaskUnitOptions, SeveralOptions):
    """Similarity (CKA) of masked and whole images at each layer: one model or several.

    fastimae-eval cka --checkpoint mae.pth --others dino.pth --val val.beton
    """

    mask_ratios: tuple[MaskShare, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    """Shares of patches that are masked."""
    samples: PositiveInt = 5000
    """Number of images, chosen at random."""
    pool: CkaPool = TsneOptions.pool
    """avg: means of the patches; cls: class tokens; common: means of the patches that are visible
    in both; tokens: these patches one by one."""
    debiased: bool = False
    """Estimate CKA without the bias that makes it too large for few images."""
    mask_tokens: bool = False
    """Give encoders that were trained with mask tokens (C-MAE) these in place of masked patches."""
    random_baseline: bool = False
    """Also measure the model of --checkpoint with random weights."""

    def check(self) -> None:
        super().check()
        few = f"--samples {self.samples}: CKA takes {FEWEST_IMAGES} images or more"
        self.require(self.samples >= FEWEST_IMAGES, few)
        self.require(len(self.mask_ratios) > 0, "--mask_ratios needs a value")

    def idle(self) -> Iterator[Idle]:
        masked = any(self.mask_ratios)
        yield Idle(not masked, ("mask_patch_size",), "with --mask_ratios 0: nothing is masked")
        yield from super().idle()
