"""Gaussian blur of images, each by its own width, drawn from keys.

B = batch, H, W, C = image rows, columns, channels, T = taps of the window.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastimae.kernels.checks import FULL_RANGE
from fastimae.kernels.random_masking import philox

BLUR_STREAM = 6
"""Philox stream of blurs: see `fastimae.loaders.order.philox.DrawStream`."""
SIGMA = (0.1, 2.0)
"""Smallest and largest standard deviation in pixels (SimCLR, appendix A; SimSiam has the same)."""


def blur_sigma(key: Tensor, share: float) -> Tensor:
    """Draw the standard deviation of each key's blur in pixels, fp32 [B]; 0: no blur.

    key: int64 [B]. share: of the images that are blurred.
    """
    applied_B, width_B, _, _ = philox(key, torch.zeros_like(key), BLUR_STREAM)
    low, high = SIGMA
    sigma_B = low + width_B.double() * ((high - low) / 2**32)
    return torch.where(applied_B < share * 2**32, sigma_B, 0.0).float()


def radius_of(height: int, width: int) -> int:
    """Return the reach of the window in pixels: it is a tenth of the image wide (SimCLR)."""
    return max(min(height, width) // 20, 1)


def blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Blur images, uint8 or uint16 [B, H, W, C], by sigma, fp32 [B], in pixels: same dtype.

    As torchvision's gaussian_blur with the window of `radius_of`: borders are mirrored. An image
    whose sigma is 0 stays as it is. Two passes of fp32, down and across, over a copy of 4 bytes a
    value.
    """
    batch, height, width, channels = images.shape
    radius = radius_of(height, width)
    taps_BT = _taps(sigma, radius).repeat_interleave(channels, dim=0)
    planes = images.permute(0, 3, 1, 2).reshape(1, batch * channels, height, width).float()
    with torch.autocast(images.device.type, enabled=False):  # 8 bits of fraction are too few
        for taps, pad in (
            (taps_BT[:, None, :, None], (0, 0, radius, radius)),
            (taps_BT[:, None, None], (radius, radius, 0, 0)),
        ):
            padded = F.pad(planes, pad, mode="reflect")
            planes = F.conv2d(padded, taps, groups=batch * channels)
    blurred = planes.view(batch, channels, height, width).permute(0, 2, 3, 1)
    return blurred.round().clamp(0, FULL_RANGE[images.dtype]).to(images.dtype).contiguous()


def _taps(sigma: Tensor, radius: int) -> Tensor:
    """Return the normalised weights of a window, fp32 [B, T]; only the middle one for sigma 0."""
    offset_T = torch.arange(-radius, radius + 1, device=sigma.device)
    safe_B1 = torch.where(sigma > 0, sigma, 1.0)[:, None]
    bell_BT = (-0.5 * (offset_T / safe_B1) ** 2).exp()
    bell_BT = torch.where(sigma[:, None] > 0, bell_BT, (offset_T == 0).float())
    return bell_BT / bell_BT.sum(1, keepdim=True)
