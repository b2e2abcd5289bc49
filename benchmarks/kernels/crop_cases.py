"""Cases of the ops that make crops of images in memory."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from benchmarks.kernels.shapes import INT, U8, KernelCase, ModelShape
from fastimae.kernels import PixelStore, ResizeTaps, reference_crops, resize_taps

BOUNDS = {"scale": (0.2, 1.0), "ratio": (3 / 4, 4 / 3)}


def draw_windows(s: ModelShape) -> KernelCase:
    """Draw the windows of a batch."""
    return KernelCase(
        op="draw_windows",
        shape=s.name,
        inputs=lambda device: _drawn(s, device),
        call=lambda op, x: op(x["key"], x["height"], x["width"], **BOUNDS),
        spec=lambda x: reference_crops.draw_windows(x["key"], x["height"], x["width"], **BOUNDS),
        # A key and two lengths in, a window and a flip out: as with mixing_ratio, its time counts.
        forward_bytes=s.batch * (8 + 6 * INT + 1),
        tolerance=0,
    )


def crop_resize(s: ModelShape) -> KernelCase:
    """Make the crops of a batch, from as many images."""
    drawn = _drawn(s, torch.device("cpu"))
    window, flip = reference_crops.draw_windows(**drawn, **BOUNDS)
    height, width = _image_size(s)

    def inputs(device: torch.device) -> dict[str, Tensor]:
        size = (s.batch * height * width * 3,)
        return _drawn(s, device) | {
            "pixels": torch.randint(0, 256, size, dtype=torch.uint8, device=device),
            "index": torch.arange(s.batch, device=device),
            "window": window.to(device),
            "flip": flip.to(device),
        }

    def given(x: dict[str, Tensor]) -> tuple:
        start = x["index"] * (height * width * 3)
        store = PixelStore(x["pixels"], start, x["height"], x["width"], 3)
        return store, x["index"], x["window"], x["flip"], _taps(s, x["pixels"].device)

    return KernelCase(
        op="crop_resize",
        shape=f"{s.name} of {height} x {width}",
        inputs=inputs,
        call=lambda op, x: op(*given(x)),
        spec=lambda x: reference_crops.crop_resize(*given(x)),
        # The windows in, the crops out.
        forward_bytes=3 * U8 * (int(window[:, 2:].long().prod(1).sum()) + s.batch * s.side**2),
        tolerance=0,
    )


def _image_size(s: ModelShape) -> tuple[int, int]:
    """Choose height and width of the images: ImageNet's usual ones, or CIFAR's."""
    return (375, 500) if s.side > 128 else (s.side, s.side)


def _drawn(s: ModelShape, device: torch.device) -> dict[str, Tensor]:
    height, width = _image_size(s)
    return {
        "key": torch.arange(s.batch, device=device) * 7919,
        "height": torch.full((s.batch,), height, dtype=torch.int32, device=device),
        "width": torch.full((s.batch,), width, dtype=torch.int32, device=device),
    }


@functools.cache
def _taps(s: ModelShape, device: torch.device) -> ResizeTaps:
    return resize_taps(max(_image_size(s)), (s.side, s.side), device)
