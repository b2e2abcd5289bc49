"""Whole images of any sizes in one tensor, which `crop_resize` reads.

N = images, P = values of all of them, h, w = rows, columns of one image, C = channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastimae.kernels.checks import check_device, check_dtype, check_pixels, check_shape
from fastimae.kernels.resize_taps import ResizeTaps


class PixelStore(NamedTuple):
    """N images, one after the other, as [h, w, C] each."""

    pixels: Tensor
    """uint8 or uint16 [P]."""
    start: Tensor
    """int64 [N], the place of each image's first value."""
    height: Tensor
    """int32 [N], rows of each image."""
    width: Tensor
    """int32 [N], columns of each image."""
    channels: int
    """C, of all images."""

    @classmethod
    def of(cls, images: Sequence[Tensor]) -> PixelStore:
        """Copy images, uint8 or uint16 [h, w, C] of one dtype, device and C, into a store."""
        device = images[0].device
        sizes_N3 = torch.tensor([image.shape for image in images])
        values_N = sizes_N3.prod(1)
        start = (values_N.cumsum(0) - values_N).to(device)
        height, width, _ = sizes_N3.to(device, torch.int32).unbind(1)
        pixels = torch.cat([image.flatten() for image in images])
        return cls(pixels, start, height.contiguous(), width.contiguous(), images[0].shape[2])


def check_crops(
    store: PixelStore, index: Tensor, window: Tensor, flip: Tensor, taps: ResizeTaps
) -> None:
    """Raise DtypeError or ValueError unless `crop_resize` can make crops from these."""
    check_shape("store.pixels", store.pixels, "P")
    check_pixels("store.pixels", store.pixels)
    check_shape("index", index, "B")
    expected = {
        "store.start": (store.start, torch.int64, ("N",)),
        "store.height": (store.height, torch.int32, (len(store.start),)),
        "store.width": (store.width, torch.int32, (len(store.start),)),
        "index": (index, torch.int64, ("B",)),
        "window": (window, torch.int32, (len(index), 4)),
        "flip": (flip, torch.bool, (len(index),)),
    }
    for name, (part, dtype, sizes) in expected.items():
        check_shape(name, part, *sizes)
        check_dtype(name, part, dtype)
    if store.channels < 1:
        raise ValueError(f"store.channels must be at least 1, not {store.channels}")
    weights = {torch.uint8: torch.int32, torch.uint16: torch.float64}[store.pixels.dtype]
    for name, axis in taps._asdict().items():
        check_dtype(f"taps.{name}.weights of {store.pixels.dtype} pixels", axis.weights, weights)
    tensors = {name.replace(".", "_"): part for name, (part, _, _) in expected.items()}
    check_device(store_pixels=store.pixels, **tensors, taps=taps.down.weights)
