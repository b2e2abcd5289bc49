"""Evaluation batches of images: resized, cropped at the centre, in order.

B = batch, H, W = height and width in pixels, C = channels.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fastimae.evaluate.images import Images
from fastimae.loaders.images.bands import AnyImage, BandImage, resized
from fastimae.loaders.images.decode import reason_for
from fastimae.loaders.images.pixels import MODES, eight_bits
from fastimae.loaders.workers.read_ahead import start_ahead, thread_pool
from fastimae.log import log

BATCHES_AHEAD = 2
CROP_SHARE = 224 / 256
"""Share of the shorter side that a crop takes, up to 224 pixels; larger crops take all of it."""


class CenterBatches:
    """Iterable of (pixels [B, H, W, C], labels int64 [B]), in order. Broken images are skipped.

    Pixels are uint8, or uint16 if the images are.
    """

    def __init__(
        self,
        images: Images,
        size: tuple[int, int],
        *,
        batch_size: int,
        workers: int,
        channels: int = 3,
        indices: Sequence[int] | None = None,
    ) -> None:
        """Batch all `images`, or those at `indices`, cropped by `center_view`.

        size: (height, width). workers: threads; 0 decodes in the calling thread. channels: 3, or 1
        for gray, or those of the images. Raises DataError if they have others.
        """
        images.check_channels(channels)
        self.images, self.size = images, size
        self.order = np.arange(len(images)) if indices is None else np.asarray(indices)
        self.batch_size, self.workers, self.channels = batch_size, workers, channels
        self.bad: dict[int, str] = {}
        """Index of each image that could not be read so far -> reason."""

    def __len__(self) -> int:
        return -(-len(self.order) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for pixels, positions in self.with_positions():
            if len(positions):
                yield pixels, torch.from_numpy(self.images.labels[positions])

    def with_positions(self) -> Iterator[tuple[Tensor, NDArray[np.int64]]]:
        """Yield each batch as (pixels [B, H, W, C], int64 [B] positions of its images in `images`).

        A batch whose images are all broken is yielded, too, empty.
        """
        starts = range(0, len(self.order), self.batch_size)
        ahead = BATCHES_AHEAD if self.workers else 0
        with thread_pool(self.workers) as pool:
            for tasks in start_ahead(functools.partial(self._start, pool), starts, ahead):
                views = [view for task in tasks if (view := task.result()) is not None]
                pixels = [pixels_HWC for pixels_HWC, _ in views]
                stacked = np.stack(pixels) if pixels else np.empty((0, *self.size, self.channels))
                yield torch.from_numpy(stacked), np.array([at for _, at in views], np.int64)

    def _start(self, pool: Executor, at: int) -> list[Future]:
        indices = self.order[at : at + self.batch_size]
        return [pool.submit(self._view, int(index)) for index in indices]

    def _view(self, index: int) -> tuple[NDArray[np.uint8 | np.uint16], int] | None:
        try:
            image = self.images.view(index, self.channels)
            return center_view(image, self.size, self.channels, self.images.whole), index
        except Exception as error:  # Pillow raises a dozen types
            if index not in self.bad:
                self.bad[index] = reason_for(error)
                log.warning("%s: image %d is skipped: %s", self.images.source, index,
                            self.bad[index])  # fmt: skip
            return None


def center_view(
    image: AnyImage, size: tuple[int, int], channels: int = 3, whole: bool = False
) -> NDArray[np.uint8 | np.uint16]:
    """Resize and centre-crop an image as evaluation does: its pixels [H, W, C].

    size: (height, width). An image of that size is not changed. Others are cropped at the centre
    after a bicubic, antialiased resize to just cover size x 256 / 224 (for ImageNet: shorter side
    256, crop 224); above 224 pixels to just cover size itself, as in MAE's fine-tuning.
    whole: resize the whole image to that size instead, as training with --crop none does.
    """
    height, width = size
    if isinstance(image, Image.Image) and image.mode != MODES[channels]:
        image = eight_bits(image, MODES[channels])
    if whole and image.size != (width, height):
        image = resized(image, (width, height))
    if image.size != (width, height):
        share = CROP_SHARE if max(size) <= 224 else 1.0
        cover = max(int(height / share) / image.height, int(width / share) / image.width)
        covering = (
            max(height, int(image.height * cover + 1e-6)),
            max(width, int(image.width * cover + 1e-6)),
        )
        image = resized(image, covering[::-1])
        left, top = round((image.width - width) / 2), round((image.height - height) / 2)
        image = image.crop((left, top, left + width, top + height))
    pixels = image.pixels_HWC if isinstance(image, BandImage) else np.asarray(image)
    return pixels.reshape(*size, channels)
