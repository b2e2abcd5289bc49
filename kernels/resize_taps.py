"""The taps of Pillow's antialiased bicubic filter, for windows of every length, made on the host.

L = longest window, H, W = rows, columns of a crop, O = outputs along an axis (H or W), T = taps of
an output. Device results then need neither fp64 nor a rule about fused products, and are the same
everywhere. `loaders/csrc/resize_taps.cc` computes the same taps.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fastimae.kernels.checks import DtypeError

WEIGHT_BITS = 22
"""A weight of 1 is 1 << WEIGHT_BITS for uint8. Sums stay in int32: 255 times the absolute weights
of an output, which add up to less than 1.3, and a half."""
_SUPPORT = 2.0


class AxisTaps(NamedTuple):
    """For windows of n positions along an axis, n in 0..L, the T[n] inputs of each output.

    Outputs at a border have fewer than T[n]: the others weigh 0. All are inside the window.
    """

    count: Tensor
    """int32 [L + 1], T[n]; 1 where n = O, which is a copy."""
    first: Tensor
    """int32 [L + 1, O], the position of each output's first tap."""
    start: Tensor
    """int64 [L + 1], the place in `weights` of [T[n], O]."""
    weights: Tensor
    """int32, or float64 for uint16 pixels: [T[n], O] for every n, one after the other."""
    most: int
    """Largest of count."""


class ResizeTaps(NamedTuple):
    """The taps of both axes; the same object twice for square crops."""

    down: AxisTaps
    """From the rows of a window to those of a crop."""
    across: AxisTaps
    """From its columns."""

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of a crop."""
        return self.down.first.shape[1], self.across.first.shape[1]


def resize_taps(
    longest: int,
    size: tuple[int, int],
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.uint8,
) -> ResizeTaps:
    """Compute the taps that resize windows of up to `longest` positions a side to size (H, W).

    device: of the taps. dtype: of the pixels, uint8 or uint16. Operations and their order are
    Pillow's, in fp64.
    For their memory, see `taps_bytes`: axes of the same length share them.
    Raises ValueError for lengths below 1 and DtypeError for another dtype.
    """
    if longest < 1 or min(size) < 1:
        raise ValueError(f"resize_taps: longest {longest} and size {size} must be at least 1")
    if dtype not in (torch.uint8, torch.uint16):
        raise DtypeError(f"resize_taps: dtype must be torch.uint8 or torch.uint16, not {dtype}")
    axes = {out: _axis_taps(longest, out, device, dtype) for out in set(size)}
    return ResizeTaps(axes[size[0]], axes[size[1]])


def taps_bytes(longest: int, size: tuple[int, int], dtype: torch.dtype = torch.uint8) -> int:
    """Return how many bytes `resize_taps` takes at most.

    20 kB for windows up to 32 and 32 outputs, 3 MB for 500 and 224, and from there on about 8 L^2
    (128 MB for 4,000); twice as much for uint16.
    """
    length = torch.arange(longest + 1, dtype=torch.float64)
    total = 0
    for out in set(size):
        taps = (4 * (length / out).clamp(min=1) + 1).floor().minimum(length)
        weights = out * int(taps.sum())
        total += weights * (4 if dtype == torch.uint8 else 8) + len(length) * (4 * out + 12)
    return total


def _axis_taps(longest: int, out: int, device: torch.device | str, dtype: torch.dtype) -> AxisTaps:
    taps = [_taps(length, out, dtype) for length in range(1, longest + 1)]
    none = torch.zeros(out, dtype=torch.int32)
    count = torch.tensor([0, *(len(weights) for _, weights in taps)])
    parts = (
        count.int(),
        torch.stack([none, *(first for first, _ in taps)]),
        (count.cumsum(0) - count) * out,
        torch.cat([weights.flatten() for _, weights in taps]),
    )
    return AxisTaps(*(part.to(device) for part in parts), int(count.max()))


def _taps(length: int, out: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the first tap, int32 [O], and the weights, [T, O], for windows of one length."""
    if length == out:
        first_O, weight_TO = torch.arange(out), torch.ones(1, out, dtype=torch.float64)
    else:
        first_O, weight_TO = _exact_taps(length, out)
    if dtype == torch.uint8:
        # Pillow's way to the nearest integer.
        half_TO = torch.where(weight_TO < 0, -0.5, 0.5)
        weight_TO = (weight_TO * (1 << WEIGHT_BITS) + half_TO).int()
    return first_O.int(), weight_TO


def _exact_taps(length: int, out: int) -> tuple[Tensor, Tensor]:
    """Return the first tap, int64 [O], and the weights, fp64 [T, O], which add up to 1."""
    scale = length / out
    width = max(scale, 1.0)
    support = _SUPPORT * width
    center_O = (torch.arange(out, dtype=torch.float64) + 0.5) * scale
    low_O = (center_O - support + 0.5).long().clamp(min=0)
    high_O = (center_O + support + 0.5).long().clamp(max=length)
    taps = int((high_O - low_O).max())
    first_O = low_O.clamp(max=length - taps)
    position_TO = first_O + torch.arange(taps)[:, None]
    weight_TO = _cubic((position_TO - center_O + 0.5) * (1.0 / width))
    weight_TO = weight_TO.where((position_TO >= low_O) & (position_TO < high_O), 0.0)
    return first_O, weight_TO / weight_TO.cumsum(0)[-1]  # one after the other: the order counts


def _cubic(at: Tensor) -> Tensor:
    """Return Pillow's bicubic filter, with its operations in its order."""
    at = at.abs()
    near = (1.5 * at - 2.5) * at * at + 1.0
    far = (((at - 5.0) * at + 8.0) * at - 4.0) * -0.5
    return torch.where(at < 1.0, near, torch.where(at < 2.0, far, 0.0))
