"""Checks that a batch fits the model, by shape and dtype only: no check waits for a device."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastimae.kernels import Mask
from fastimae.kernels.checks import (
    check_dtype,
    check_key,
    check_mask,
    check_pixels,
    check_shape,
    check_size,
)
from fastimae.models import MaskedAutoencoder

if TYPE_CHECKING:
    from fastimae.loaders.base import Batch


def check_batch(model: MaskedAutoencoder, batch: Batch, mask: Mask | None = None) -> None:
    """Raise ValueError unless images are pixels of the model's size, and keys and mask fit them."""
    check_pixels("images", batch.images)
    check_size("images", batch.images, model.img_size, model.in_chans)
    check_key(batch.key)
    check_shape("key", batch.key, len(batch.images))
    if mask is not None:
        check_mask(mask, len(batch.images), model.grid[0] * model.grid[1])


def check_paired_batch(model: MaskedAutoencoder, batch: Batch, mask: Mask | None = None) -> None:
    """Check a batch whose images must have partners, too. Raises ValueError."""
    check_batch(model, batch, mask)
    check_partners(batch)
    check_key(batch.step_key)
    check_shape("step_key", batch.step_key, 1)


def check_partners(batch: Batch) -> None:
    """Raise ValueError unless every image of a batch has a partner."""
    check_shape("partner", batch.partner, len(batch.images))
    check_dtype("partner", batch.partner, batch.key.dtype)
