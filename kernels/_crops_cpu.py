"""Crops on the CPU: windows of a block are filled up to the same size, and filtered row by row.

B = batch, n = crops of a block, h, w = rows, columns of its largest window, C = channels,
O = outputs along an axis, K = values of a row, T = taps. Values of a row are neighbours in memory:
each tap of a pass is then a copy of whole rows and a product, and columns are filtered as the rows
of the transposed image.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastimae.kernels.pixel_store import PixelStore
from fastimae.kernels.reference_crops import as_pixels, is_vertical_first, rounded, window_taps
from fastimae.kernels.resize_taps import AxisTaps, ResizeTaps

_BLOCK = 1 << 17
"""Values of a block's windows, at most, unless a single one has more: 512 kB in int32."""


def crop_on_cpu(
    store: PixelStore, index: Tensor, window: Tensor, flip: Tensor, taps: ResizeTaps
) -> Tensor:
    """Return crops [B, H, W, C]: see `crop_resize`."""
    window = window.long()
    copied = (window[:, 2:] == window.new_tensor(taps.size)).all(1)
    vertical = is_vertical_first(window, taps.size)
    crops, rows_n = [store.pixels.new_empty((0, *taps.size, store.channels))], [index[:0]]
    for order, chosen in (((), copied), ((0, 1), vertical), ((1, 0), ~copied & ~vertical)):
        for rows in _blocks(chosen.nonzero()[:, 0], window, store.channels):
            x_nhwC = _windows(store, index[rows], window[rows])
            for axis in order:
                x_nhwC = _filtered(x_nhwC, taps[axis], window[rows, 2 + axis], axis)
            x_nHWC = as_pixels(x_nhwC, store.pixels.dtype)
            crops.append(torch.where(flip[rows, None, None, None], x_nHWC.flip(2), x_nHWC))
            rows_n.append(rows)
    return torch.cat(crops).index_select(0, torch.cat(rows_n).argsort())


def _blocks(rows: Tensor, window: Tensor, channels: int) -> tuple[Tensor, ...]:
    """Split rows into those of a block each."""
    if not len(rows):
        return ()
    high, wide = window[rows, 2:].amax(0).tolist()
    return rows.split(max(_BLOCK // (high * wide * channels), 1))


def _windows(store: PixelStore, index: Tensor, window: Tensor) -> Tensor:
    """Return windows [n, h, w, C]; the smaller ones are filled up with whatever follows them."""
    top, left, high, wide = window.unbind(1)
    high_n1, stride_n = high[:, None], store.width[index].long() * store.channels
    row_nh = torch.arange(int(high.max())).minimum(high_n1 - 1) + top[:, None]
    place_nh = (store.start[index] + left * store.channels)[:, None] + row_nh * stride_n[:, None]
    values = int(wide.max()) * store.channels
    last = len(store.pixels) - values
    every = store.pixels.as_strided((last + 1, values), (1, 1))
    x_nhK = every.index_select(0, place_nh.flatten().clamp(max=last)).view(*row_nh.shape, values)
    for image, row in (place_nh > last).nonzero().tolist():  # would be read beyond the store's end
        x_nhK[image, row] = x_nhK[image, row].roll(last - int(place_nh[image, row]))
    return x_nhK.unflatten(2, (-1, store.channels))


def _filtered(x: Tensor, taps: AxisTaps, length: Tensor, axis: int) -> Tensor:
    """Return x [n, h, w, C], filtered along its axis (0: rows), of length [n], and rounded."""
    x = x.transpose(1, 1 + axis).contiguous()
    x_rK = x.view(-1, x.shape[2:].numel())
    row_nTO, weight_nTO = window_taps(taps, length, int(taps.count[length].max()))
    row_nTO += torch.arange(len(x))[:, None, None] * x.shape[1]
    total = torch.zeros(row_nTO[:, 0].numel(), x_rK.shape[1], dtype=taps.weights.dtype)
    for row_nO, weight_nO in zip(row_nTO.unbind(1), weight_nTO.unbind(1), strict=True):
        values = x_rK.index_select(0, row_nO.flatten()).to(total.dtype)
        total += values.mul_(weight_nO.reshape(-1, 1))
    between = rounded(total)
    if not between.is_floating_point():
        between = between.byte()  # the next pass copies rows: a quarter of the memory
    return between.view(*row_nO.shape, *x.shape[2:]).transpose(1, 1 + axis)
