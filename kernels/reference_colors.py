"""Colour jitter in plain torch: the specification of its three ops, see `reference`.

B = batch, H, W = image rows, columns, P = patch size, K = visible patches, N = pixels of a sample,
D = P*P*3. Colours are RGB, in 0..1 while they change.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from fastimae.kernels.checks import check_images, check_jitter, check_key, check_visible
from fastimae.kernels.random_masking import philox
from fastimae.kernels.reference import constants, gather_rows, patchify

JITTER_STREAM = 4
"""Philox stream of colour jitter: see `fastimae.loaders.order.philox.DrawStream`."""
JITTERED, GRAY, HUE = 0.8, 0.2, 0.25
"""SimSiam's: shares of jittered and of gray samples, and the range of the hue over the others'."""
ORDERS = tuple(itertools.permutations(range(4)))
"""Orders of brightness (0), contrast (1), saturation (2) and hue (3), by number."""
LUMA = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue in gray: torchvision's."""


def jitter_factors(key: Tensor, strength: float, view: int = 0) -> Tensor:
    """Draw how the colours of each sample change (C-MAE, section 3; SimSiam's augmentation).

    key: int64 [B]. Returns fp32 [B, 6]: factors of brightness, contrast and saturation in
    1 +- strength, none below 0; shift of the hue, in turns; number of the order; 1 for gray.
    """
    check_key(key)
    counter = torch.arange(2, device=key.device) + 2 * view
    words_B8 = torch.stack(philox(key[:, None], counter, JITTER_STREAM), dim=-1).flatten(1)
    draw_B8 = words_B8 >> 8  # the 24 bits that fp32 holds
    share_B8, low = draw_B8.float() * 2.0**-24, max(1 - strength, 0.0)
    scale_B3 = share_B8[:, :3] * (1 + strength - low) + low
    shift_B1 = share_B8[:, 3:4] * (2 * strength * HUE) - strength * HUE
    jittered_B1 = share_B8[:, 5:6] < JITTERED
    change_B4 = torch.cat([scale_B3.where(jittered_B1, 1), shift_B1.where(jittered_B1, 0)], 1)
    order_B1 = draw_B8[:, 4:5] * len(ORDERS) >> 24
    gray_B1 = share_B8[:, 6:7] < (GRAY if strength else 0)
    return torch.cat([change_B4, order_B1.float(), gray_B1.float()], 1)


def color_jitter(images: Tensor, factors: Tensor) -> Tensor:
    """Change the colours of uint8 images [B, H, W, 3] by fp32 factors [B, 6]: the same shape."""
    check_jitter(images, factors)
    changed_BN3 = jittered(images.flatten(1, 2).float() / 255, factors)
    return (255 * changed_BN3 + 0.5).to(torch.uint8).view_as(images)


def jitter_patchify(
    images: Tensor,
    ids_keep: Tensor,
    factors: Tensor,
    patch_size: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> Tensor:
    """Extract visible patches of uint8 images, change their colours, and normalise them.

    ids_keep: integer [B, K]. factors: fp32 [B, 6]; contrast's mean is over the visible patches.
    Returns fp32 [B, K, P*P*3].
    """
    check_jitter(images, factors)
    check_images(images, patch_size, mean, std)
    check_visible(images, ids_keep, patch_size)
    patches_BKD = gather_rows(patchify(images, patch_size), ids_keep)
    changed_BN3 = jittered(patches_BKD.reshape(len(images), -1, 3).float() / 255, factors)
    normalised_BN3 = (changed_BN3 - constants(mean, images.device)) / constants(std, images.device)
    return normalised_BN3.view(patches_BKD.shape)


def jittered(x: Tensor, factors: Tensor) -> Tensor:
    """Change colours x, fp32 [B, N, 3] in 0..1, as torchvision does: four changes, then gray."""
    orders = torch.stack([constants(order, x.device) for order in ORDERS])
    order_B4 = orders[factors[:, 4].long()]
    brightness, contrast, saturation, shift = factors[:, :4, None, None].unbind(1)
    for change_B11 in order_B4[..., None, None].unbind(1):
        blends = (brightness, 0), (contrast, gray(x).mean(1, keepdim=True)), (saturation, gray(x))
        ways = [(f * x + (1 - f) * other).clamp(0, 1) for f, other in blends]
        ways.append(_shift_hue(x, shift))
        x = sum(way.where(change_B11 == i, 0) for i, way in enumerate(ways))
    return gray(x).expand_as(x).where(factors[:, 5:, None] > 0, x)


def gray(x: Tensor) -> Tensor:
    """Return the luma of RGB x [..., 3]: [..., 1]."""
    return (x * constants(LUMA, x.device)).sum(-1, keepdim=True)


def _shift_hue(x: Tensor, shift: Tensor) -> Tensor:
    """Shift the hue of RGB x [B, N, 3] by [B, 1, 1] turns, through HSV."""
    red, green, blue = x.split(1, -1)
    high, low = x.amax(-1, keepdim=True), x.amin(-1, keepdim=True)
    chroma = (high - low).where(high > low, 1)
    sixths = ((red - green) / chroma + 4).where(high > green, (blue - red) / chroma + 2)
    sixths = ((green - blue) / chroma).where(high == red, sixths) + 6 * shift
    place = (sixths + constants((5, 3, 1), x.device)) % 6
    return high - (high - low) * torch.minimum(place, 4 - place).clamp(0, 1)
