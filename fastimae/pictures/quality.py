"""How close pictures are to the truth: MSE, PSNR, SSIM (torchmetrics) and FSIM (piq).

B = pictures, H, W = height and width, C = channels.
"""

from __future__ import annotations

import piq
import torch
from torch import Tensor
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

from fastimae.kernels.checks import FULL_RANGE, check_dtype, check_pixels, check_shape

PSNR_OF_EQUALS = 100.0
"""Decibels for equal pictures, whose PSNR is infinite; no picture gets more."""
SSIM_WINDOW = 11
FSIM_SIDE = 16
"""Pixels; in smaller pictures FSIM's frequency bands are empty."""
FSIM_PIXELS = 2**20
"""Pixels of the pictures that FSIM is computed of at a time, for which it needs about 1 GB."""


@torch.no_grad()
def quality(pictures: Tensor, truth: Tensor) -> dict[str, Tensor]:
    """Measure the quality of each picture: float32 [B], by name of the measure.

    pictures, truth: uint8 or uint16 [B, H, W, C]; measures are over all channels, of values in 0..1
    of the dtype's range. "mse": mean squared error. "psnr": decibels. "ssim": Gaussian window of 11
    pixels, borders mirrored. "fsim": of gray pictures or, with colours (FSIMc), of three channels;
    it takes no others. Measures that pictures are too small for are left out, too.
    """
    for name, images in (("pictures", pictures), ("truth", truth)):
        check_shape(name, images, "B", "H", "W", "C")
        check_pixels(name, images)
    check_shape("truth", truth, *pictures.shape)
    check_dtype("truth", truth, pictures.dtype)
    full = FULL_RANGE[pictures.dtype]
    x, y = (images.permute(0, 3, 1, 2).float() / full for images in (pictures, truth))
    psnr = peak_signal_noise_ratio(x, y, data_range=1.0, reduction="none", dim=(1, 2, 3))
    measures = {
        "mse": (x - y).square().mean((1, 2, 3)),
        "psnr": psnr.clamp(max=PSNR_OF_EQUALS),
    }
    side, channels = min(x.shape[2:]), x.shape[1]
    if side >= SSIM_WINDOW:
        ssim = structural_similarity_index_measure(x, y, data_range=1.0, reduction="none")
        measures["ssim"] = ssim.reshape(len(x))
    if side >= FSIM_SIDE and channels in (1, 3):
        measures["fsim"] = _fsim(x, y, chromatic=channels == 3)
    return measures


def _fsim(x: Tensor, y: Tensor, *, chromatic: bool) -> Tensor:
    """Compute the FSIM of pictures [B, C, H, W], a few at a time: float32 [B]."""
    at_once = max(1, FSIM_PIXELS // (x.shape[2] * x.shape[3]))
    settings = {"reduction": "none", "data_range": 1.0, "chromatic": chromatic}
    parts = zip(x.split(at_once), y.split(at_once), strict=True)
    return torch.cat([piq.fsim(*part, **settings).reshape(-1) for part in parts])
