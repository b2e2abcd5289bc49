"""Crops of images that are in memory: window, antialiased bicubic resize and flip, as Pillow's.

B = batch, H, W, C = rows, columns, channels of a crop.
"""

from __future__ import annotations

from torch import Tensor

from fastimae.kernels import reference_crops
from fastimae.kernels._launch import Impl
from fastimae.kernels.pixel_store import PixelStore
from fastimae.kernels.resize_taps import ResizeTaps


def crop_resize(
    store: PixelStore,
    index: Tensor,
    window: Tensor,
    flip: Tensor,
    taps: ResizeTaps,
    *,
    impl: Impl = "auto",
) -> Tensor:
    """Crop images of a store to windows, resize and mirror them: bit-equal to the loaders' crops.

    index: int64 [B], of images. window: int32 [B, 4], (top, left, height, width), inside the image
    and no longer than `taps` are for. flip: bool [B], mirror left to right. taps: of
    `resize_taps`, for the dtype of the store. impl: "triton", "torch", or "auto" for the faster
    available.

    Returns [B, H, W, C] of the store's dtype, as Pillow 13's `resize` with BICUBIC has it: uint8 in
    its integer arithmetic, uint16 as mode F, rounded to even. Where a window has the size of the
    crop, its pixels are copied.
    Raises ValueError or TypeError that names the argument that does not fit, and if impl="triton"
    cannot run. Values of index and window are not checked.
    """
    return reference_crops.crop_resize(store, index, window, flip, taps)
