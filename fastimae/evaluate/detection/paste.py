"""Detections of resized images, taken back to the images as they are in their files.

N = detections of an image, H, W = its height and width, M = side of a mask.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import clip_boxes_to_image

_PIXELS_AT_ONCE = 1 << 25
"""Of masks that are sampled together: 128 MB in fp32."""
THRESHOLD = 0.5
"""Probability from which a pixel belongs to an object."""
Part = tuple[slice, range, range]
"""Detections to sample together; the rows and the columns of the image to sample them at."""


class Detections(NamedTuple):
    """The objects that were found in an image, best first."""

    boxes: Tensor
    """float32 [N, 4]: x1, y1, x2, y2 in pixels of the image."""
    scores: Tensor
    """float32 [N]"""
    labels: Tensor
    """int64 [N], from 1."""
    masks: Tensor | None
    """bool [N, H, W]; None if only boxes are detected."""


def in_original_size(
    found: dict[str, Tensor], scale: tuple[float, float], size: tuple[int, int]
) -> Detections:
    """Return detections in pixels of the original image.

    found: of one image, as `MaskRCNN` returns them: boxes, scores, labels, and perhaps
    masks, float [N, 1, M, M] of probabilities. scale: (x, y), by which the image was multiplied.
    size: (height, width) of the original.
    """
    factor = found["boxes"].new_tensor([*scale, *scale])
    boxes = clip_boxes_to_image(found["boxes"] / factor, size)
    masks = paste(found["masks"][:, 0], boxes, size, scale) if "masks" in found else None
    return Detections(boxes, found["scores"], found["labels"], masks)


def paste(
    masks_NMM: Tensor,
    boxes_N4: Tensor,
    size: tuple[int, int],
    scale: tuple[float, float] = (1.0, 1.0),
) -> Tensor:
    """Return bool [N, H, W]: the pixels of an image of `size` whose probability is above one half.

    masks_NMM: float [N, M, M] of probabilities over their boxes. boxes_N4: float [N, 4]. scale: (x,
    y), by which the image had been multiplied when the masks were found. Pixels between the samples
    of a mask are interpolated, exactly (not after rounding the box to pixels). On a CPU only the
    pixels of its box are looked at for a mask, with the same result.
    """
    pasted_NHW = masks_NMM.new_zeros(len(masks_NMM), *size, dtype=torch.bool)
    parts = _each_in_its_box if boxes_N4.device.type == "cpu" else _many_in_the_image
    for some, rows, columns in parts(boxes_N4, size):
        sampled = _sampled(masks_NMM[some], boxes_N4[some], rows, columns, scale)
        pasted_NHW[some, rows.start : rows.stop, columns.start : columns.stop] = sampled > THRESHOLD
    return pasted_NHW


def _each_in_its_box(boxes_N4: Tensor, size: tuple[int, int]) -> Iterator[Part]:
    """Yield each detection alone, with the pixels that its box reaches; none for an empty box."""
    ends_N4 = torch.cat([boxes_N4[:, :2].floor(), boxes_N4[:, 2:].ceil()], 1)
    for number, ends in enumerate(ends_N4.nan_to_num(0).clamp(0, max(size)).long().tolist()):
        rows = range(ends[1], min(ends[3], size[0]))
        columns = range(ends[0], min(ends[2], size[1]))
        if rows and columns:
            yield slice(number, number + 1), rows, columns


def _many_in_the_image(boxes_N4: Tensor, size: tuple[int, int]) -> Iterator[Part]:
    """Yield as many detections as memory is made for, with all pixels.

    For a GPU, which would wait for the places of boxes, and for a hundred small kernels.
    """
    at_once = max(1, _PIXELS_AT_ONCE // max(size[0] * size[1], 1))
    for first in range(0, len(boxes_N4), at_once):
        yield slice(first, first + at_once), range(size[0]), range(size[1])


def _sampled(
    masks_NMM: Tensor, boxes_N4: Tensor, rows: range, columns: range, scale: tuple[float, float]
) -> Tensor:
    """Return float [N, rows, columns]: probabilities at pixels, 0 outside of the boxes."""
    x_NW, in_NW = _positions(boxes_N4[:, 0], boxes_N4[:, 2], columns, scale[0])
    y_NH, in_NH = _positions(boxes_N4[:, 1], boxes_N4[:, 3], rows, scale[1])
    grid_NHW2 = torch.stack(
        [x_NW[:, None].expand(-1, len(rows), -1), y_NH[..., None].expand(-1, -1, len(columns))],
        dim=-1,
    )
    sampled_N1HW = F.grid_sample(
        masks_NMM[:, None], grid_NHW2, padding_mode="border", align_corners=False
    )
    return sampled_N1HW[:, 0] * (in_NH[..., None] & in_NW[:, None])


def _positions(
    first_N: Tensor, last_N: Tensor, pixels: range, scale: float
) -> tuple[Tensor, Tensor]:
    """Return where in a box, from -1 to 1, the pixels of a row or column are, and which are inside.

    Both are [N, pixels]. The centre of pixel i is at i + 0.5 in the coordinates of boxes. Masks are
    read half a pixel of the scaled image before it: torchvision's loss samples its targets from
    true masks as if the centre of pixel i were at i.
    """
    numbers = torch.arange(pixels.start, pixels.stop, device=first_N.device, dtype=first_N.dtype)
    centres_1C = numbers[None] + 0.5
    first_N1, last_N1 = first_N[:, None], last_N[:, None]
    inside = (centres_1C >= first_N1) & (centres_1C <= last_N1)
    read_1C = centres_1C - 0.5 / scale
    return 2 * (read_1C - first_N1) / (last_N1 - first_N1).clamp(min=1e-6) - 1, inside
