"""Centre crops of labelled images that are shown to an encoder again and again.

B = batch, H, W, C = height, width, channels.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from torch import Tensor

from fastimae.evaluate.center_batches import CenterBatches
from fastimae.evaluate.images import Images, random_indices
from fastimae.loaders.errors import DataError

KEPT_BYTES = 2 << 30
"""Crops that take more are decoded each time: 10,000 of 224 pixels in RGB take 1.5 GB."""

Batches = Iterable[tuple[Tensor, Tensor]]


class CenterCrops:
    """Evaluation's centre crops of some of the images, in memory if there is room.

    They are decoded when they are first asked for, and again when another size is.
    """

    def __init__(
        self, images: Images, *, count: int, seed: int, channels: int, batch_size: int, workers: int
    ) -> None:
        """Take up to `count` of the images, chosen by `seed`. The others: see `CenterBatches`.

        Raises DataError for images of other channels.
        """
        images.check_channels(channels)
        self.images = images
        self.indices = np.sort(random_indices(images, count, np.random.default_rng(seed)))
        self.channels, self.batch_size, self.workers = channels, batch_size, workers
        self._kept: list[tuple[Tensor, Tensor]] = []
        self._size: tuple[int, int] | None = None
        """Of the crops that are kept."""

    def batches(self, size: tuple[int, int]) -> Batches:
        """Return all crops of a size: uint8 or uint16 [B, H, W, C], and labels int64 [B]."""
        if self._size == size:
            return self._kept
        self._kept, self._size = [], None  # first, as both together may be too much
        batches = self._decoded(size, self.indices)
        if len(self.indices) * size[0] * size[1] * self._pixel_bytes > KEPT_BYTES:
            return batches
        self._kept, self._size = list(batches), size
        return self._kept

    def check(self, size: tuple[int, int]) -> None:
        """Raise DataError unless one of the first images can be read."""
        if not any(True for _ in self._decoded(size, self.indices[: self.batch_size])):
            raise DataError(f"{self.images.source}: none of its first images can be read")

    def _decoded(self, size: tuple[int, int], indices: np.ndarray) -> CenterBatches:
        return CenterBatches(
            self.images, size, batch_size=self.batch_size, workers=self.workers,
            channels=self.channels, indices=indices,
        )  # fmt: skip

    @property
    def _pixel_bytes(self) -> int:
        return self.channels * self.images.form.dtype.itemsize
