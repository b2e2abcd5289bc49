"""Pixels near visible patches, which --ignore_boundary leaves out: whether others remain.

B = masks, M = masked patches, P = patch size.
"""

from __future__ import annotations

import torch

from fastimae.kernels import random_masking
from fastimae.kernels.reference import near_visible
from fastimae.log import log
from fastimae.models import MaskedAutoencoder
from fastimae.settings import ConfigError

MASKS = 32
"""How many masks the share of pixels that remain is estimated from."""


def check_boundary(
    student: MaskedAutoencoder, mask_ratio: float, mask_unit: int, ignore_boundary: int
) -> None:
    """Log the share of masked pixels that count in the loss, unless `ignore_boundary` is 0.

    Raises ConfigError if none counts, and for a boundary wider than a patch.
    """
    patch = student.patch_size
    if not 0 <= ignore_boundary <= patch:
        raise ConfigError(
            f"--ignore_boundary {ignore_boundary} is not in 0..{patch}, the patch size: a wider "
            "boundary would reach into patches that touch no visible one"
        )
    if not ignore_boundary:
        return
    key = torch.arange(MASKS, device="cpu")
    mask = random_masking(key, student.grid, mask_ratio, mask_unit, impl="torch")
    near_BMP = near_visible(mask.ids_masked, student.grid, patch, ignore_boundary, channels=1)
    share = (~near_BMP).double().mean().item()
    if not share:
        raise ConfigError(
            f"--ignore_boundary {ignore_boundary} leaves no masked pixel to reconstruct: lower it, "
            "or mask more (--mask_ratio) or larger squares (--mask_patch_size)"
        )
    log.info("--ignore_boundary %d: %.0f %% of masked pixels count", ignore_boundary, 100 * share)
