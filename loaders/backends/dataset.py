"""A user's own dataset or transform (`--dataset`, `create_loader(dataset=..., transform=...)`).

Items are read, cropped by Pillow and transformed in worker processes. Before each call of the
user's code, the random generators of Python, NumPy and torch are seeded from the sample's key: what
it returns then depends on (seed, epoch, sample, copy) alone, as all else does.

Dimensions: B images in a batch, n rows of it, H height, W width, C channels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fastimae.loaders.images.bands import AnyImage
from fastimae.loaders.images.crops import Crops
from fastimae.loaders.images.decode import Failures, Pixels, decode_rows, reason_for
from fastimae.loaders.images.given_images import as_pixels
from fastimae.loaders.order.sampler import BatchPlan, Sampler
from fastimae.loaders.order.seeded import seeded_by
from fastimae.loaders.workers.process_loader import ProcessLoader, StepDecoder, StepResult

_TRANSFORM_STREAM = 1
"""Separates the random numbers of the transform from those of the dataset."""
Transform = Callable[[Image.Image], Any]
"""Changes a crop: PIL image to PIL image or uint8, of the same size; crops that are no PIL images
(images/bands.py) are arrays, [H, W, C]."""


class Samples(Protocol):
    """Anything whose samples can be read by index."""

    labels: NDArray[np.int64]
    labels_known: bool

    def item(self, index: int, key: int) -> tuple[AnyImage, int]:
        """Return a sample's image and its label; `key` seeds what is random about it."""

    def sample_name(self, index: int) -> str:
        """Return the name of a sample in messages."""

    def close(self) -> None:
        """Release files."""


class DatasetLoader(ProcessLoader):
    """Reads `samples`, which it closes, in `num_workers` processes; 0: in this one."""

    def __init__(
        self,
        samples: Samples,
        sampler: Sampler,
        crops: Crops,
        *,
        transform: Transform | None = None,
        **settings: int,
    ) -> None:
        super().__init__(DatasetDecoder(samples, crops, transform), sampler, **settings)
        self.samples = samples

    def sample_name(self, index: int) -> str:
        return self.samples.sample_name(index)

    def close(self) -> None:
        super().close()
        self.samples.close()


class DatasetDecoder(StepDecoder):
    """The work of a worker process: read, crop and transform the samples of a step."""

    def __init__(self, samples: Samples, crops: Crops, transform: Transform | None) -> None:
        super().__init__(crops)
        self.samples, self.transform = samples, transform
        self._labels: dict[int, int] = {}

    def __call__(self, step: BatchPlan, pixels: Pixels) -> StepResult:
        """Decode a step into `pixels`, [B, H, W, C]."""
        self._labels.clear()
        result = super().__call__(step, pixels)
        if self.samples.labels_known:
            return result
        labels = [self._labels.get(index, -1) for index in result.index.tolist()]
        return result._replace(labels=np.array(labels))

    def decode_rows(
        self, index: NDArray[np.int64], key: NDArray[np.int64], out: Pixels
    ) -> Failures:
        def read(row: int) -> AnyImage:
            sample = int(index[row])
            image, self._labels[sample] = self.samples.item(sample, int(key[row]))
            return image

        failures = decode_rows(read, self.crops, np.arange(len(index)), key, out)
        if self.transform is not None:
            for row in set(range(len(index))) - failures.keys():
                try:
                    out[row] = self.transformed(out[row], int(key[row]))
                except Exception as error:
                    failures[row] = reason_for(error)
        return failures

    def transformed(self, pixels: Pixels, key: int) -> Pixels:
        """Apply the transform to a crop, [H, W, C]. Raises what it raises, or NotAnImage."""
        crop = pixels.copy()
        if self.crops.of_ordinary:
            crop = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)
        with seeded_by(key, _TRANSFORM_STREAM):
            changed = self.transform(crop)
        return as_pixels(changed, self.crops.shape, self.crops.dtype)
