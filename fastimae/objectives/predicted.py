"""The share of masked patches that a step predicts: --predict_ratio.

B = batch, L = patches of an image, M = masked patches.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastimae.kernels import Mask
from fastimae.kernels.random_masking import mask_of, uniform_words
from fastimae.models import MaskedAutoencoder
from fastimae.settings import ConfigError

PREDICTED_STREAM = 8
"""Philox stream of predicted patches: see `fastimae.loaders.order.philox.DrawStream`."""


def patches_predicted(student: MaskedAutoencoder, visible: int, predict_ratio: float | None) -> int:
    """Return how many patches of an image are predicted, and enter the loss.

    visible: patches that are not masked. predict_ratio: share of all patches, rounded up as a
    mask's; None: all that are masked, or all if none is. Raises ConfigError for more patches than
    are masked.
    """
    patches = student.patches
    masked = patches - visible
    if predict_ratio is None:
        return masked or patches
    predicted = patches - int(patches * (1 - predict_ratio))
    if predicted > masked:
        raise ConfigError(
            f"--predict_ratio {predict_ratio} are {predicted} of {patches} patches, and only "
            f"{masked} are masked: lower it, or raise --mask_ratio"
        )
    return predicted


def draw_predicted(mask: Mask, key: Tensor, predicted: int) -> Mask:
    """Draw as many of each sample's masked patches, a function of its key, int64 [B], and mask.

    Returns a mask that hides these alone; the mask itself if these are all. They are the masked
    patches of least noise, in a stream of its own: a mask lists its patches by position, not in the
    order in which it drew them.
    """
    if predicted >= mask.ids_masked.shape[1]:
        return mask
    patches = mask.mask.shape[1]
    order_L = torch.arange(patches, device=key.device)
    noise_BL = (uniform_words(key, patches, PREDICTED_STREAM) << 31) | order_L  # unique
    noise_BL = noise_BL.masked_fill(mask.mask == 0, torch.iinfo(torch.int64).max)
    least = noise_BL.topk(predicted, dim=1, largest=False, sorted=False).values
    return mask_of(noise_BL <= least.amax(1, keepdim=True), patches - predicted)
