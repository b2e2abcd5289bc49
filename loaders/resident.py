"""Epochs whose batches a device makes by itself: the plan is there, and a counter says which step.

Dimensions: S micro steps of an epoch, B images in a batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fastimae.loaders.batch import Batch
from fastimae.loaders.device.plan import DevicePlan
from fastimae.loaders.images.decode import Failures

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fastimae.loaders.backends.device import DeviceLoader

_FIELDS = 6
"""Of a step, B words each: samples, rows of the store, labels, keys, partners, and heights and
widths of 32 bits. The step's key is one more word."""


class ResidentEpoch:
    """What a loader offers whose samples are on the device: batches that need no host.

    `begin` puts an epoch's plan on the device. Then each `batch` consists of device operations at
    fixed addresses, so that a CUDA graph can record one, or several in a row, and replay them:
    each replay makes the next batches. The host only counts: `advance`.

    After `Loader.set_image_size`, `begin` again, and record anew. An epoch has `len(loader)`
    batches; asking for more is an error of the device.
    """

    def __init__(self, loader: DeviceLoader) -> None:
        sampler, device = loader.sampler, loader.device
        self.loader, self._plan = loader, DevicePlan(sampler, device)
        self._labels_N = torch.from_numpy(sampler.labels).to(device)
        words = _FIELDS * sampler.batch_size + 1
        # One row a step, so that one operation reads all of it.
        self._steps_SW = torch.zeros(len(sampler), words, dtype=torch.int64, device=device)
        self._number = torch.zeros(1, dtype=torch.int64, device=device)
        self._drawn: tuple[int, tuple[int, ...]] | None = None
        self._bad: dict[int, tuple[NDArray[np.int64], Failures]] = {}

    def begin(self, epoch: int, step: int) -> None:
        """Go to micro step `step` of `epoch`. The host waits for the device only if samples are
        bad, and draws the order only if it depends on labels or has several passes."""
        if self._drawn != (epoch, self.loader.shape):
            self._draw(epoch)
            self._drawn = epoch, self.loader.shape
        self._number.fill_(step)
        self.loader.go_to(epoch, step)

    def batch(self) -> Batch:
        """Return the next batch, all fields on the device; the counter there moves on by one."""
        words_W = self._steps_SW.index_select(0, self._number).view(-1)
        self._number.add_(1)
        *fields, sizes_B = words_W[:-1].view(_FIELDS, -1)
        index_B, row_B, labels_B, key_B, partner_B = fields
        height_B, width_B = sizes_B.view(torch.int32).view(2, -1)
        return Batch(
            images=self.loader.images.crop(key_B, row_B, height_B, width_B),
            labels=labels_B,
            index=index_B,
            key=key_B,
            partner=partner_B,
            step_key=words_W[-1:],
        )

    def advance(self, count: int) -> None:
        """Tell the loader that `count` more batches were handed out: for `state_dict`, and to count
        bad samples. Raises `DataError` as iterating does."""
        self.loader.handed_out(count, self._bad)

    def _draw(self, epoch: int) -> None:
        """Put the plan of an epoch where batches read it."""
        index_SB, key_SB, partner_SB, step_key_S1 = self._plan.steps(epoch)
        index_SB = self._without_bad(index_SB)
        row_SB, *sides = self.loader.images.place(index_SB)
        sizes_SB = torch.cat(sides, 1).view(torch.int64)
        fields = index_SB, row_SB, self._labels_N[index_SB], key_SB, partner_SB, sizes_SB
        torch.cat([*fields, step_key_S1], 1, out=self._steps_SW)

    def _without_bad(self, index_SB: Tensor) -> Tensor:
        """Replace bad samples in all steps, and remember which step has which."""
        images, self._bad = self.loader.images, {}
        if not images.bad:
            return index_SB
        steps = index_SB.cpu().numpy()
        for number, index in enumerate(steps.copy()):
            steps[number], bad = images.good(index)
            if bad:
                self._bad[number] = steps[number], bad
        return self._plan.upload(steps)
