"""Targets of Mask R-CNN: masks travel between processes as bits, and are unpacked on the device.

N = objects of an image, H, W = height, width of the masks, M = bytes of all masks of an image.
A frame is the part of a mask that travels, [left, top, right, bottom], as all of its pixels are in
it. Its left and right are multiples of 8: bytes are rows of 8 pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Target = dict[str, NDArray]
"""boxes: float32 [N, 4]; labels: int64 [N] from 1; frames: int64 [N, 4]; bits: uint8 [M]."""
MAX_OBJECTS = 100
"""Masks of one image take so many squares of memory; no image of COCO has more objects to learn."""
_PIXELS = 8


def make_target(
    boxes: Sequence[NDArray], labels: Sequence[int], parts: Sequence[tuple[int, int, NDArray]]
) -> Target:
    """Return the target of an image with N objects, or with none.

    boxes: [4] each. labels: from 1. parts: left, top and the mask's pixels from there on, bool
    [h, w]; those beyond its part are not of the object.
    """
    packed = [_pack(left, pixels_hw) for left, _, pixels_hw in parts]
    frames = [
        (left // _PIXELS * _PIXELS, top, left // _PIXELS * _PIXELS + bits.shape[1] * _PIXELS,
         top + bits.shape[0])
        for (left, top, _), bits in zip(parts, packed, strict=True)
    ]  # fmt: skip
    return {
        "boxes": np.array(boxes, np.float32).reshape(-1, 4),
        "labels": np.array(labels, np.int64),
        "frames": np.array(frames, np.int64).reshape(-1, 4),
        "bits": np.concatenate([np.empty(0, np.uint8), *(bits.ravel() for bits in packed)]),
    }


def _pack(left: int, pixels_hw: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return the bits of a part, [h, bytes], the first at a multiple of 8."""
    return np.packbits(np.pad(pixels_hw, ((0, 0), (left % _PIXELS, 0))), axis=1)


def collate_targets(targets: Sequence[Target]) -> list[dict[str, Tensor]]:
    """Return the targets of a batch as tensors: a list, as images have different numbers."""
    return [{name: torch.from_numpy(value) for name, value in target.items()} for target in targets]


def unpack_target(target: dict[str, Tensor], size: tuple[int, int]) -> dict[str, Tensor]:
    """Return what torchvision's Mask R-CNN trains on: boxes, labels, and masks, uint8 [N, H, W].

    target: of `collate_targets`, on any device, which is not waited for. size: (H, W).
    """
    masks_NHW = unpack_masks(target["frames"], target["bits"], size)
    return {"boxes": target["boxes"], "labels": target["labels"], "masks": masks_NHW}


def unpack_masks(frames_N4: Tensor, bits_M: Tensor, size: tuple[int, int]) -> Tensor:
    """Return masks, uint8 [N, H, W] of 0 and 1, of the given size (H, W).

    frames_N4: int64. bits_M: uint8, the rows of all frames, one after the other.
    """
    (height, width), device = size, bits_M.device
    left_N, top_N, right_N, bottom_N = frames_N4.unbind(1)
    wide_N = (right_N - left_N) // _PIXELS
    count_N = (bottom_N - top_N) * wide_N
    of_M = torch.repeat_interleave(count_N, output_size=len(bits_M))
    place_M = torch.arange(len(bits_M), device=device) - (count_N.cumsum(0) - count_N)[of_M]
    row_M = top_N[of_M] + place_M // wide_N[of_M]
    column_M = left_N[of_M] // _PIXELS + place_M % wide_N[of_M]
    bytes_NHB = bits_M.new_zeros(len(frames_N4), height, -(-width // _PIXELS))
    bytes_NHB[of_M, row_M, column_M] = bits_M
    shift_8 = torch.arange(_PIXELS - 1, -1, -1, dtype=torch.uint8, device=device)
    return ((bytes_NHB[..., None] >> shift_8) & 1).flatten(2)[..., :width]
