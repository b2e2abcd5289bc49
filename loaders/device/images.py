"""The samples of a run on a device, and the crops that it makes of them.

M = samples that are used, N = samples of the data set, B = crops; H, W, C = rows, columns, channels
of a crop.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastimae.kernels import PixelStore, crop_resize, draw_windows, resize_taps
from fastimae.loaders.images.crops import Crops
from fastimae.loaders.images.decode import Failures, replacement_rows
from fastimae.loaders.workers.buffers import torch_dtype


class DeviceImages:
    """M samples on a device."""

    def __init__(
        self, store: PixelStore, bad: Failures, samples: NDArray[np.int64], crops: Crops
    ) -> None:
        """store, bad: see `fill_store`. samples: int64 [M], the positions in the data set of the
        images in the store. crops: to make of them."""
        self.store, self.samples, self.bad = store, samples, bad
        self.device = store.pixels.device
        row_N = np.full(samples.max() + 1, -1)
        row_N[samples] = np.arange(len(samples))
        self._row_N = torch.from_numpy(row_N).to(self.device)
        self._longest = int(torch.cat([store.height, store.width]).max())
        self.set_crops(crops)

    def set_crops(self, crops: Crops) -> None:
        """Make other crops from now on."""
        self.crops = crops
        dtype = torch_dtype(crops.dtype)
        self._taps = resize_taps(self._longest, crops.size, self.device, dtype)

    def good(self, index: NDArray[np.int64]) -> tuple[NDArray[np.int64], Failures]:
        """Return the samples of a batch, int64 [B], each bad one replaced by the next good one; and
        the bad ones with the reason."""
        bad = {i: self.bad[i] for i in index.tolist() if i in self.bad} if self.bad else {}
        if not bad:
            return index, bad
        failed = np.flatnonzero(np.isin(index, list(bad))).tolist()
        return index[replacement_rows(len(index), dict.fromkeys(failed, ""))], bad

    def place(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return where samples are in the store, int64 as `index`, their heights and widths, int32.

        index: int64 of any shape, on the device."""
        row = self._row_N[index]
        return row, self.store.height[row], self.store.width[row]

    def crop(self, key: Tensor, row: Tensor, height: Tensor, width: Tensor) -> Tensor:
        """Return the crops that keys draw, uint8 or uint16 [B, H, W, C]; device operations only.

        key: int64 [B]; the others, [B], as `place` returns them.
        """
        crops = self.crops
        window, flip = draw_windows(
            key, height, width,
            scale=crops.scale, ratio=crops.bounds, random=crops.random, hflip=crops.hflip,
        )  # fmt: skip
        return crop_resize(self.store, row, window, flip, self._taps)
