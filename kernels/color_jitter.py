"""Colour jitter as SimSiam has it, of whole images or of visible patches, drawn from keys.

B = batch, H, W = image rows, columns, P = patch size, K = visible patches, N = pixels of a sample.
The colours are RGB in 0..1 while they change; results are clamped, as torchvision's are.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from fastimae.kernels._pixels import gather_patches
from fastimae.kernels.random_masking import philox
from fastimae.kernels.reference import constants

JITTER_STREAM = 4
"""Philox stream of colour jitter: see `reference.MIXING_STREAM`."""
APPLIED, GRAY = 0.8, 0.2
"""Shares of samples that are jittered, and that are turned gray."""
HUE = 0.25
"""Largest shift of the hue, over that of the other changes (0.1 for 0.4)."""
ORDERS = tuple(itertools.permutations(range(4)))
"""Orders of brightness, contrast, saturation and hue, by number."""
_LUMA = (0.2989, 0.587, 0.114)


def jitter_factors(key: Tensor, strength: float, *, view: int = 0) -> Tensor:
    """Draw how the colours of each sample change (C-MAE, section 3; SimSiam's augmentation).

    key: int64 [B]. strength: brightness, contrast and saturation change by factors of up to
    1 +- strength, hue by up to a quarter of strength. view: views of a sample are jittered
    independently. Returns fp32 [B, 6]: factors of brightness, contrast and saturation, shift of the
    hue in turns, the number of the order in `ORDERS`, and 1 for gray.
    """
    counter = torch.arange(2, device=key.device) + 2 * view
    words = torch.stack(philox(key[:, None], counter, JITTER_STREAM), dim=-1)
    uniform = words.flatten(1).double() * 2.0**-32
    change, (order, applied, gray) = 2 * uniform[:, :4] - 1, uniform[:, 4:7].unbind(1)
    change = change * (applied < APPLIED)[:, None]
    low = max(1 - strength, 0.0)
    factors = low + (change[:, :3] + 1) / 2 * (1 + strength - low)
    factors = torch.where((applied < APPLIED)[:, None], factors, 1.0)
    rest = [change[:, 3] * strength * HUE, (order * len(ORDERS)).floor(), (gray < GRAY).double()]
    return torch.cat([factors, torch.stack(rest, 1)], 1).float()


def color_jitter(images: Tensor, factors: Tensor) -> Tensor:
    """Change the colours of images.

    images: uint8 [B, H, W, 3]. factors: of `jitter_factors`. Returns uint8 [B, H, W, 3], rounded
    once, at the end.
    """
    pixels_BN3 = images.flatten(1, 2).float() / 255
    changed = _jittered(pixels_BN3, factors) * 255
    return changed.round().to(torch.uint8).view_as(images)


def jitter_patchify(
    images: Tensor,
    ids_keep: Tensor,
    factors: Tensor,
    patch_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Extract visible patches, change their colours, and normalise them.

    images: uint8 [B, H, W, 3]. ids_keep: int [B, K]. factors: of `jitter_factors`. The mean that
    contrast refers to is that of the visible patches: they are jittered after masking. Returns
    `dtype` [B, K, P*P*3], normalised to (x - mean) / std by channel.
    """
    patches_BKV = gather_patches(images.contiguous(), ids_keep, patch_size)
    pixels_BN3 = patches_BKV.view(len(images), -1, 3).float() / 255
    changed = _jittered(pixels_BN3, factors)
    mean_3, std_3 = constants(mean, images.device), constants(std, images.device)
    return ((changed - mean_3) / std_3).view(patches_BKV.shape).to(dtype)


def _jittered(pixels_BN3: Tensor, factors_B6: Tensor) -> Tensor:
    orders = torch.stack([constants(order, factors_B6.device) for order in ORDERS])
    order_B4 = orders[factors_B6[:, 4].long()]
    x = pixels_BN3
    for place in range(4):
        chosen = order_B4[:, place, None, None]
        brightness, contrast, saturation, hue = factors_B6[:, :4, None, None].unbind(1)
        gray = _gray(x)
        changed = torch.where(chosen == 0, _blend(x, 0, brightness), x)
        changed = torch.where(chosen == 1, _blend(x, gray.mean(1, keepdim=True), contrast), changed)
        changed = torch.where(chosen == 2, _blend(x, gray, saturation), changed)
        x = torch.where(chosen == 3, _shift_hue(x, hue), changed)
    return torch.where(factors_B6[:, 5, None, None] > 0, _gray(x).expand_as(x), x)


def _gray(x: Tensor) -> Tensor:
    return (x * constants(_LUMA, x.device)).sum(-1, keepdim=True)


def _blend(x: Tensor, other: Tensor | float, factor: Tensor) -> Tensor:
    return (factor * x + (1 - factor) * other).clamp(0, 1)


def _shift_hue(x: Tensor, shift: Tensor) -> Tensor:
    """Shift the hue of RGB x [B, N, 3] by [B, 1, 1] turns, through HSV."""
    red, green, blue = x.unbind(-1)
    high, low = x.amax(-1), x.amin(-1)
    chroma = high - low
    safe = torch.where(chroma == 0, 1.0, chroma)
    hue = torch.where(
        high == red,
        (green - blue) / safe,
        torch.where(high == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    turned = hue / 6 + shift.squeeze(-1)
    offsets = constants((5, 3, 1), x.device)
    k = torch.remainder(6 * turned[..., None] + offsets, 6)
    ramp = torch.minimum(k, 4 - k).clamp(0, 1)
    return high[..., None] - chroma[..., None] * ramp
