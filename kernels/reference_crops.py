"""Crop windows and crops in plain torch: the specification of two ops, see `reference`.

B = batch, H, W, C = rows, columns, channels of a crop, T = taps of an output, L = longest window.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from fastimae.kernels.checks import FULL_RANGE, check_windows
from fastimae.kernels.pixel_store import PixelStore, check_crops
from fastimae.kernels.random_masking import uniform_words
from fastimae.kernels.resize_taps import WEIGHT_BITS, AxisTaps, ResizeTaps

CROP_STREAM = 1
"""Philox stream of crops: see `fastimae.loaders.order.philox.DrawStream`."""
TRIES = 10
"""Windows that are tried for an image, see `fastimae.loaders.images.crops`."""


def draw_windows(
    key: Tensor,
    height: Tensor,
    width: Tensor,
    *,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    random: bool = True,
    hflip: bool = True,
) -> tuple[Tensor, Tensor]:
    """Draw a window, int32 [B, 4], and a flip, bool [B], for images of height and width [B]."""
    check_windows(key, height, width, scale, ratio)
    words, high, wide = uniform_words(key, 2 * TRIES + 3, CROP_STREAM), height.long(), width.long()
    flip = (words[:, 2 * TRIES + 2] < 1 << 31) & hflip
    if not random:
        none = torch.zeros_like(high)
        return torch.stack([none, none, high, wide], 1).int(), flip
    tries = words[:, : 2 * TRIES].unflatten(1, (TRIES, 2))
    tall, broad = _first_fit(tries, high, wide, scale, ratio)
    fallback, central = tall == 0, _central(high, wide, ratio)
    tall, broad = central[0].where(fallback, tall), central[1].where(fallback, broad)
    free = torch.stack([high - tall, wide - broad], 1)
    place = free // 2
    # Exact, as the product of a word / 2^32 in fp64 is.
    drawn = words[:, 2 * TRIES : 2 * TRIES + 2] * (free + 1) >> 32
    place = place.where(fallback[:, None], drawn)
    return torch.cat([place, tall[:, None], broad[:, None]], 1).int(), flip


def _first_fit(
    words: Tensor,
    high: Tensor,
    wide: Tensor,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> tuple[Tensor, Tensor]:
    """Return the sizes, int64 [B], of the first window that fits, of words [B, TRIES, 2]; or 0."""
    share = words.double() * 2.0**-32
    area = (high * wide)[:, None] * (scale[0] + share[..., 0] * (scale[1] - scale[0]))
    low, up = math.log(ratio[0]), math.log(ratio[1])
    aspect = (low + share[..., 1] * (up - low)).exp()
    broad, tall = (area * aspect).sqrt().round().long(), (area / aspect).sqrt().round().long()
    fits = (broad > 0) & (broad <= wide[:, None]) & (tall > 0) & (tall <= high[:, None])
    first = fits.int().argmax(1, keepdim=True)
    return tuple((size * fits).gather(1, first)[:, 0] for size in (tall, broad))


def _central(high: Tensor, wide: Tensor, ratio: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Return the sizes, int64 [B], of the largest windows whose width / height is in `ratio`."""
    shape = wide.double() / high
    # Tensors: to divide by a float, torch multiplies by 1 / float on a GPU.
    least, most = (torch.full_like(shape, bound) for bound in ratio)
    tall = torch.where(shape < least, (wide / least).round(), high.double())
    broad = torch.where(shape > most, (high * most).round(), wide.double())
    return tall.long().clamp(min=1), broad.long().clamp(min=1)


def crop_resize(
    store: PixelStore, index: Tensor, window: Tensor, flip: Tensor, taps: ResizeTaps
) -> Tensor:
    """Resize window, int32 [B, 4], of image index, int64 [B], of a store, as Pillow 13 does.

    flip: bool [B], mirror left to right. Returns [B, H, W, C] of the store's dtype: two sums over
    T taps, one in the other, rounded in between. The inner one is over rows if vertical_first.
    """
    check_crops(store, index, window, flip, taps)
    top, left, high, wide = window.long().unbind(1)
    row, row_weight = window_taps(taps.down, high, taps.down.most)
    column, column_weight = window_taps(taps.across, wide, taps.across.most)
    row, column = row + top[:, None, None], column + left[:, None, None]
    row_weight, column_weight = row_weight[:, :, :, None, None], column_weight[:, :, None, :, None]
    start, width = (part[index][:, None, None, None] for part in (store.start, store.width))
    channel = torch.arange(store.channels, device=index.device)

    def pixel(i: int, j: int) -> Tensor:
        place = row[:, i, :, None, None] * width + column[:, j, None, :, None]
        return store.pixels[start + place * store.channels + channel].to(row_weight.dtype)

    def along(values: Callable[[int], Tensor], weight: Tensor) -> Tensor:
        return rounded(sum(values(i) * weight[:, i] for i in range(weight.shape[1])))

    def over_columns(i: int) -> Tensor:
        return along(lambda j: pixel(i, j), column_weight)

    def over_rows(j: int) -> Tensor:
        return along(lambda i: pixel(i, j), row_weight)

    vertical_first = is_vertical_first(window, taps.size)[:, None, None, None]
    rows_first, columns_first = along(over_rows, column_weight), along(over_columns, row_weight)
    crops = torch.where(vertical_first, rows_first, columns_first)
    crops = torch.where(flip[:, None, None, None], crops.flip(2), crops)
    return as_pixels(crops, store.pixels.dtype)


def is_vertical_first(window: Tensor, size: tuple[int, int]) -> Tensor:
    """Return whether Pillow resizes each window, [B, 4], along its columns first: bool [B]."""
    rows, columns = window[:, 2] - size[0], window[:, 3] - size[1]
    return (rows > 0) & (rows > 2 * columns)


def rounded(total: Tensor) -> Tensor:
    """Round the sums of a pass: int32 in place, to 0..255, fp64 to fp32 (kept as fp64)."""
    if total.is_floating_point():
        return total.float().double()
    return total.add_(1 << WEIGHT_BITS - 1).bitwise_right_shift_(WEIGHT_BITS).clamp_(0, 255)


def as_pixels(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Return rounded sums as uint8, or as uint16, to even and clipped."""
    if values.is_floating_point():
        values = values.round().clamp(0, FULL_RANGE[dtype])
    return values.to(dtype)


def window_taps(axis: AxisTaps, length: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Return positions and weights, [B, T, O], of the taps of windows of length [B].

    most: T; those beyond a window's own number weigh 0.
    """
    outputs = axis.first.shape[1]
    tap_T1 = torch.arange(most, device=length.device)[:, None]
    exists_BT1 = tap_T1 < axis.count[length][:, None, None]
    tap_BT1 = tap_T1.where(exists_BT1, 0)
    place_BT1 = axis.start[length][:, None, None] + tap_BT1 * outputs
    weight_BTO = axis.weights[place_BT1 + torch.arange(outputs, device=length.device)]
    return axis.first[length][:, None] + tap_BT1, weight_BTO.where(exists_BT1, 0)
