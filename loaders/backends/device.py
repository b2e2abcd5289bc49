"""All samples on the training device (`--cache device`): decoded once, cropped there.

The batches are those of the loader that decodes, bit for bit, at any time and on any device.

Dimensions: B images in a batch.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastimae.loaders.base import DecodedStep, Loader
from fastimae.loaders.device.images import DeviceImages
from fastimae.loaders.device.store import Sizes, Source, fill_store
from fastimae.loaders.images.crops import Crops
from fastimae.loaders.images.decode import Failures
from fastimae.loaders.order.sampler import BatchPlan
from fastimae.loaders.resident import ResidentEpoch


class DeviceLoader(Loader):
    """A loader that keeps the samples of `source`, a loader which it closes, on `device`.

    The batches' images are there, and all of a batch of `resident`. Where every crop is the whole
    image, images are kept in their final size, and decoded again if that changes.
    """

    def __init__(
        self,
        source: Loader & Source,
        crops: Crops,
        sizes: Sizes,
        device: torch.device,
        *,
        num_workers: int,
        pin_mem: bool,
        quiet: bool,
    ) -> None:
        """Decode with `num_workers` threads; 0: the calling one. sizes: of the samples, see
        `kept_sizes`. quiet: show no progress."""
        super().__init__(
            source.sampler,
            crops.shape,
            dtype=crops.dtype,
            max_bad_samples=source.max_bad_samples,
            pin_mem=pin_mem,
        )
        self.source, self.device = source, device
        self._fill = functools.partial(
            fill_store, decoder=source.rows_decoder, device=device, num_workers=num_workers,
            quiet=quiet,
        )  # fmt: skip
        store, bad = self._fill(sizes, crops)
        self.images = DeviceImages(store, sizes.samples, bad, crops)

    @functools.cached_property
    def resident(self) -> ResidentEpoch:
        return ResidentEpoch(self)

    def sample_name(self, index: int) -> str:
        return self.source.sample_name(index)

    def go_to(self, epoch: int, step: int) -> None:
        """Be in `epoch`, after `step` micro steps."""
        self.set_epoch(epoch)
        self._step = step

    def handed_out(
        self, count: int, bad: Mapping[int, tuple[NDArray[np.int64], Failures]]
    ) -> None:
        """Count `count` more steps as yielded. bad: step -> its samples, [B], and the bad ones that
        they replace; see `good`."""
        for number in range(self._step, self._step + count):
            if number in bad:
                self._count_bad(*bad[number])
        self._step += count

    def _change_size(self, size: tuple[int, int]) -> None:
        super()._change_size(size)
        crops = dataclasses.replace(self.images.crops, size=size)
        if crops.random:
            self.images.set_crops(crops)
