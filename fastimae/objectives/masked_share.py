"""What a training says about its masks: the share that is masked, where units do not divide it."""

from __future__ import annotations

import math

from fastimae.kernels.random_masking import masked_share
from fastimae.log import log
from fastimae.models import MaskedAutoencoder
from fastimae.objectives.settings import MaskSettings


def say_masked_share(student: MaskedAutoencoder, settings: MaskSettings) -> None:
    """Log the share of patches that is masked, if --mask_ratio is not a number of whole units."""
    unit = settings.mask_unit(student.patch_size)
    share = masked_share(student.grid, settings.mask_ratio, unit)
    if not math.isclose(share, settings.mask_ratio):
        side, (down, across) = unit * student.patch_size, student.grid
        log.info(
            "masked: %.3g of each image instead of --mask_ratio %g, as it has %d x %d squares of "
            "%d pixels",
            share, settings.mask_ratio, down // unit, across // unit, side,
        )  # fmt: skip
