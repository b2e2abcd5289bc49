"""Predicts images of any size by overlapping crops of the size of training.

K = classes, C = channels, H, W = height and width, N = crops.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from fastimae.kernels.checks import check_shape

Size = int | tuple[int, int]
"""A side, or (height, width), in pixels."""
_LOGITS_AT_ONCE = 1 << 25
"""Logits that are enlarged together: 128 MB in fp32."""


@torch.no_grad()
def slide(
    model: Callable[[Tensor], Tensor],
    image: Tensor,
    crop: Size,
    stride: Size | None = None,
    classes: int | None = None,
    batch_size: int = 8,
) -> Tensor:
    """Return the mean of the logits of all crops that have a pixel: fp32 [1, K, H, W].

    model: crops [N, C, *crop] -> logits [N, K, ...], enlarged bilinearly if they are smaller.
    image: float [1, C, H, W], normalised; one smaller than a crop is padded with 0, the mean.
    crop: the size of crops. stride: from one to the next; None: 2/3 of `crop`. The last one of a
    row or column ends at the image's edge. classes: the number K that is expected; None: any.
    batch_size: crops that are predicted together. Raises ValueError for another K, or a stride that
    leaves pixels out.
    """
    check_shape("image", image, 1, "C", "H", "W")
    crop = _pair(crop)
    stride = tuple(max(1, side * 2 // 3) for side in crop) if stride is None else _pair(stride)
    if not all(0 < step <= side for step, side in zip(stride, crop, strict=True)):
        raise ValueError(f"stride {stride} must be from 1 to the crop's size, {crop}")
    height, width = image.shape[2:]
    image = F.pad(image, (0, max(0, crop[1] - width), 0, max(0, crop[0] - height)))
    sums, counts = None, torch.zeros(image.shape[2:], device=image.device)
    for corners in _batches(corners_of(tuple(image.shape[2:]), crop, stride), batch_size):
        logits = _predict(model, image, corners, crop, classes)
        if sums is None:
            sums = logits.new_zeros(logits.shape[1], *image.shape[2:])
        for (top, left), each in zip(corners, logits, strict=True):
            sums[:, top : top + crop[0], left : left + crop[1]] += each
            counts[top : top + crop[0], left : left + crop[1]] += 1
    return (sums / counts)[None, :, :height, :width]


def corners_of(
    size: tuple[int, int], crop: tuple[int, int], stride: tuple[int, int]
) -> list[tuple[int, int]]:
    """Return (top, left) of the crops that cover an image, row by row; all (height, width).

    The image is not smaller than a crop.
    """
    tops, lefts = (_starts(*sides) for sides in zip(size, crop, stride, strict=True))
    return list(itertools.product(tops, lefts))


def resized(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Return logits [N, K, ...] at another size (height, width), bilinearly."""
    if logits.shape[2:] == size:
        return logits
    return F.interpolate(logits, size, mode="bilinear", align_corners=False)


def best_classes(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the class of the largest of the logits `resized`, int64 [N, H, W].

    logits: float [N, K, ...]. size: (height, width). As many classes are enlarged together as fit
    into a fixed amount of memory: all 150 of ADE20K would take gigabytes for a large image.
    """
    at_once = max(1, _LOGITS_AT_ONCE // (len(logits) * size[0] * size[1]))
    best_NHW, first = None, 0
    for part in logits.split(at_once, dim=1):
        values_NHW, classes_NHW = resized(part, size).max(1)
        if best_NHW is None:
            best_NHW, chosen_NHW = values_NHW, classes_NHW
        else:
            better_NHW = values_NHW > best_NHW
            best_NHW = torch.where(better_NHW, values_NHW, best_NHW)
            chosen_NHW = torch.where(better_NHW, classes_NHW + first, chosen_NHW)
        first += part.shape[1]
    return chosen_NHW


def _starts(side: int, crop: int, stride: int) -> list[int]:
    """Return where crops start along a side: every `stride`, and so that the last ends with it."""
    count = -(-(side - crop) // stride) + 1
    return [min(number * stride, side - crop) for number in range(count)]


def _batches(corners: list[tuple[int, int]], batch_size: int) -> Iterator[list[tuple[int, int]]]:
    for start in range(0, len(corners), batch_size):
        yield corners[start : start + batch_size]


def _predict(
    model: Callable[[Tensor], Tensor],
    image: Tensor,
    corners: list[tuple[int, int]],
    crop: tuple[int, int],
    classes: int | None,
) -> Tensor:
    """Return the logits of the crops at `corners`: fp32 [N, K, *crop]."""
    crops = [image[0, :, top : top + crop[0], left : left + crop[1]] for top, left in corners]
    logits = model(torch.stack(crops)).float()
    check_shape("logits", logits, len(crops), classes or "K", "height", "width")
    return resized(logits, crop)


def _pair(size: Size) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])
