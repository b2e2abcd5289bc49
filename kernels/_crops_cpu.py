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
from fastimae.kernels.reference_crops import as_pixels, is_vertical_first, rounded
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
    return torch.cat(crops)[torch.cat(rows_n).argsort()]


def _blocks(rows: Tensor, window: Tensor, channels: int) -> tuple[Tensor, ...]:
    """Split rows into those of a block each."""
    if not len(rows):
        return ()
    high, wide = window[rows, 2:].amax(0).tolist()
    return rows.split(max(_BLOCK // (high * wide * channels), 1))


def _windows(store: PixelStore, index: Tensor, window: Tensor) -> Tensor:
    """Return windows [n, h, w, C], the smaller ones filled up with their last row and column."""
    top, left, high, wide = window.unbind(1)
    row = torch.arange(int(high.max())).minimum(high[:, None] - 1) + top[:, None]
    column = torch.arange(int(wide.max())).minimum(wide[:, None] - 1) + left[:, None]
    width = store.width[index].long()
    row = store.start[index, None] + row * (width * store.channels)[:, None]
    column = column[..., None] * store.channels + torch.arange(store.channels)
    return store.pixels[row[..., None, None] + column[:, None]]


def _filtered(x: Tensor, taps: AxisTaps, length: Tensor, axis: int) -> Tensor:
    """Return x [n, h, w, C], filtered along its rows (axis 0) or columns, of length [n], rounded."""
    x = x.transpose(1, 1 + axis).contiguous()
    row_nO = taps.first[length] + torch.arange(len(x))[:, None] * x.shape[1]
    count_n, start_n = taps.count[length], taps.start[length]
    rows = x.flatten(0, 1).flatten(1)
    total = torch.zeros(row_nO.numel(), rows.shape[1], dtype=taps.weights.dtype)
    output = torch.arange(row_nO.shape[1])
    for tap in range(int(count_n.max())):
        exists_n1 = (tap < count_n)[:, None]
        weight_nO = taps.weights[(start_n[:, None] + tap * len(output)) * exists_n1 + output]
        weight_nO = weight_nO.where(exists_n1, 0)
        values = rows[(row_nO + tap * exists_n1).flatten()].to(total.dtype)
        total += values.mul_(weight_nO.view(-1, 1))
    x = rounded(total).view(*row_nO.shape, *x.shape[2:])
    return x.transpose(1, 1 + axis)
