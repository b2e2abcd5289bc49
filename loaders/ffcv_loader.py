"""A `.beton` file decoded by the ffcv library (`--decoder ffcv`), for comparison.

JPEG decoding and resizing are the library's, compiled by its pipeline. Order, windows, flips and
labels are ours, so a run is reproducible and shows what the other back ends show, but for the
decoder: the library decodes with the fast inverse DCT and resizes with OpenCV's INTER_AREA
instead of antialiased bicubic (about 1.4 of 255 away from Pillow in the mean).

Of the library's own loop only the pipeline is used, in a thread of ours: an error reaches the
caller instead of stopping the loop for ever, each batch has memory of its own, and a damaged JPEG
is noticed. libjpeg-turbo's warnings count as damage, some of which Pillow would show.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from fastimae.loaders.base import Shown
from fastimae.loaders.beton import BetonReader
from fastimae.loaders.beton_loader import BetonLoader
from fastimae.loaders.crops import Crops
from fastimae.loaders.decode import Failures, all_copies, stand_ins
from fastimae.loaders.errors import DataError
from fastimae.loaders.ffcv_pipeline import NOT_DECODED, Pipeline
from fastimae.loaders.read_ahead import started_ahead, threads
from fastimae.loaders.sampler import Sampler, Step

BATCHES_AHEAD = 2


class FFCVLoader(BetonLoader):
    """A loader with `num_workers` numba threads.

    `DataError` if the library is missing or asked for gray images. The first batch waits some
    seconds for the compiler.
    """

    def __init__(
        self, reader: BetonReader, sampler: Sampler, crops: Crops, **settings: int
    ) -> None:
        super().__init__(reader, sampler, crops, **settings)
        if crops.channels != 3:
            raise DataError(f"--decoder ffcv shows RGB only, not --in_chans {crops.channels}")
        limit = Image.MAX_IMAGE_PIXELS or np.inf
        self._too_large = reader.heights * reader.widths > limit
        largest = int((reader.heights * reader.widths)[~self._too_large].max(initial=1))
        self._pipeline = Pipeline(
            reader.path, crops.size, largest, sampler.batch_size, self.num_workers
        )

    def _show(self, steps: Iterable[Step]) -> Iterator[Shown]:
        ahead = BATCHES_AHEAD if self.num_workers else 0
        # One thread gives out the work; inside a batch the pipeline has threads of its own.
        with threads(min(1, self.num_workers)) as pool:
            start = functools.partial(pool.submit, self._decode)
            for decoded in started_ahead(start, steps, ahead):
                yield decoded.result()

    def _decode(self, step: Step) -> Shown:
        count = len(step.index)
        images = torch.empty((count, *self.crops.shape), dtype=torch.uint8, pin_memory=self.pin)
        out = images.numpy()
        failures = all_copies(step.index, self._fill(step.index, step.key, out))
        shown = step.index[stand_ins(count, failures)]
        rows = np.flatnonzero(shown != step.index)
        if len(rows):
            again = np.empty((len(rows), *self.crops.shape), dtype=np.uint8)
            self._fill(shown[rows], step.key[rows], again)
            out[rows] = again
        bad = {int(step.index[row]): reason for row, reason in failures.items()}
        return Shown(images=images, index=shown, bad=bad)

    def _fill(
        self, index: NDArray[np.int64], key: NDArray[np.int64], out: NDArray[np.uint8]
    ) -> Failures:
        heights, widths = self.reader.heights[index], self.reader.widths[index]
        windows, flip = self.crops.draw(key, heights, widths)
        windows[self._too_large[index]] = 0
        status = self._pipeline(np.column_stack([index, windows, flip]).astype(np.int64), out)
        return {
            row: "over Pillow's limit of pixels" if status[row] == NOT_DECODED else "damaged JPEG"
            for row in np.flatnonzero(status).tolist()
        }
