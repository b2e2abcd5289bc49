"""A folder of images (`--data_path`), decoded by Pillow in worker processes.

This is the reference pipeline: it reads every format that Pillow reads. Order, crops and flips are
those of the other back ends, so the batches are the same.

Dimensions: n rows of a batch, H height, W width, C channels.
"""

from __future__ import annotations

import contextlib
import functools

import numpy as np
from numpy.typing import NDArray

from fastimae.loaders.images.crops import Crops
from fastimae.loaders.images.decode import DecodeRows, Failures, Pixels, decode_rows
from fastimae.loaders.order.sampler import Sampler
from fastimae.loaders.sources.image_files import ImageFiles
from fastimae.loaders.workers.process_loader import ProcessLoader, StepDecoder


class FolderLoader(ProcessLoader):
    """Decodes the files in `num_workers` processes; 0: in this one."""

    def __init__(self, files: ImageFiles, sampler: Sampler, crops: Crops, **settings: int) -> None:
        super().__init__(_FileDecoder(files, crops), sampler, **settings)
        self.files = files

    def sample_name(self, index: int) -> str:
        return self.files.path(index)

    def sizes(self, samples: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Open files for heights and widths: see `Source` of device/store.py."""
        widths, heights = np.array([self._size(index) for index in samples.tolist()]).T
        return heights, widths

    def rows_decoder(self, crops: Crops) -> DecodeRows:
        """See `Source` of device/store.py."""
        return functools.partial(decode_rows, self.files.open, crops)

    def _size(self, index: int) -> tuple[int, int]:
        with contextlib.suppress(Exception):  # as many kinds as there are decoders, which report it
            return self.files.open(index).size
        return 1, 1


class _FileDecoder(StepDecoder):
    def __init__(self, files: ImageFiles, crops: Crops) -> None:
        super().__init__(crops)
        self.files = files

    def decode_rows(
        self, index: NDArray[np.int64], key: NDArray[np.int64], out: Pixels
    ) -> Failures:
        return decode_rows(self.files.open, self.crops, index, key, out)
