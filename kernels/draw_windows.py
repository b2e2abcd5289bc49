"""Crop windows and flips, drawn from the samples' keys: torchvision's RandomResizedCrop.

B = batch.
"""

from __future__ import annotations

from torch import Tensor

from fastimae.kernels import reference_crops
from fastimae.kernels._launch import Impl


def draw_windows(
    key: Tensor,
    height: Tensor,
    width: Tensor,
    *,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    random: bool = True,
    hflip: bool = True,
    impl: Impl = "auto",
) -> tuple[Tensor, Tensor]:
    """Draw the window that each image is cropped to, and whether it is mirrored.

    key: int64 [B], any strides; equal keys draw equally. height, width: int32 [B], of the images in
    pixels. scale: smallest and largest share of an image's area in its window. ratio: bounds of a
    window's width / height in pixels. The first of ten tries that fits is taken, else the largest
    window in the middle whose shape is allowed. random: if False, the window is the whole image.
    hflip: mirror half of the images. impl: "triton", "torch", or "auto" for the faster available.

    Returns window, int32 [B, 4], as (top, left, height, width), and flip, bool [B]: those of
    `fastimae.loaders.images.crops.draw_windows`. All is computed in fp64, no product is fused with
    a sum, and only `exp` is not rounded alike everywhere: another last bit of it changes a window
    where a side is that close to a half, once in 10^12 draws.
    Raises ValueError for arguments that do not fit, and if impl="triton" cannot run.
    """
    return reference_crops.draw_windows(
        key, height, width, scale=scale, ratio=ratio, random=random, hflip=hflip
    )
