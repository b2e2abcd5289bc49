"""What a training says about its masks: the share that is masked, where units do not divide it."""

from __future__ import annotations

import math

from fastimae.kernels.random_masking import masked_share
from fastimae.log import log
from fastimae.models import MaskedAutoencoder
from fastimae.objectives.settings import MaskSettings, SecondViewSettings


def say_masked_share(
    student: MaskedAutoencoder, settings: MaskSettings, name: str = "mask_ratio"
) -> None:
    """Log the share of patches that is masked, if --mask_ratio is not a number of whole units.

    name: the setting that is the ratio.
    """
    unit, ratio = settings.mask_unit(student.patch_size), getattr(settings, name)
    share = masked_share(student.grid, ratio, unit)
    if not math.isclose(share, ratio):
        side, (down, across) = unit * student.patch_size, student.grid
        log.info(
            "masked: %.3g of each image instead of --%s %g, as it has %d x %d squares of %d pixels",
            share, name, ratio, down // unit, across // unit, side,
        )  # fmt: skip


def say_masked_shares(student: MaskedAutoencoder, settings: SecondViewSettings) -> None:
    """Log the share of each view: see `say_masked_share`."""
    say_masked_share(student, settings)
    if settings.second_view == "independent":
        say_masked_share(student, settings, "second_mask_ratio")
