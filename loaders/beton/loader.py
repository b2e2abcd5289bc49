"""Base of all loaders that decode a `.beton` file."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from fastimae.loaders.base import Loader
from fastimae.loaders.beton.reader import BetonReader
from fastimae.loaders.images.crops import Crops
from fastimae.loaders.images.limits import max_pixels
from fastimae.loaders.order.sampler import Sampler


class BetonLoader(Loader):
    """Decodes crops of the samples of `reader`, which it closes, with `num_workers` threads.

    With 0 threads, the calling thread does the work.
    """

    def __init__(
        self,
        reader: BetonReader,
        sampler: Sampler,
        crops: Crops,
        *,
        num_workers: int,
        max_bad_samples: int,
        pin_mem: bool,
    ) -> None:
        super().__init__(
            sampler,
            crops.shape,
            dtype=crops.dtype,
            max_bad_samples=max_bad_samples,
            pin_mem=pin_mem,
        )
        self.reader, self.crops, self.num_workers = reader, crops, num_workers

    def sample_name(self, index: int) -> str:
        return f"sample {index} of {self.reader.path}"

    def sizes(self, samples: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return heights and widths of samples: see `Source` of device/store.py."""
        heights, widths = self.reader.heights[samples], self.reader.widths[samples]
        broken = heights * widths > max_pixels()  # decoders refuse them
        return np.where(broken, 1, heights), np.where(broken, 1, widths)

    def _change_size(self, size: tuple[int, int]) -> None:
        super()._change_size(size)
        self.crops = dataclasses.replace(self.crops, size=size)

    def close(self) -> None:
        super().close()
        self.reader.close()
