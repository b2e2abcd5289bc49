"""Synthetic images at memory speed (`--synthetic`): an upper bound for speed, and data for tests.

Dimensions: N samples, H height, W width, C channels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fastimae.loaders.base import DecodedStep, Loader
from fastimae.loaders.order.philox import philox, uniform
from fastimae.loaders.order.sampler import BatchPlan, Sampler

KIND = "colour patterns in memory"
"""What the images are, in words."""
CLASSES = 10
POOL = 50
"""Number of different images; a multiple of `CLASSES`, so that each image has one label."""
CELLS = 8
"""Cells per side of the random colour grid that is enlarged to an image."""


class SyntheticLoader(Loader):
    """Sample i is image i % POOL, a smooth colour pattern, and has label i % CLASSES.

    There are no crops and no flips.
    """

    def __init__(
        self, sampler: Sampler, *, shape: tuple[int, int, int], max_bad_samples: int, pin_mem: bool
    ) -> None:
        super().__init__(sampler, shape, max_bad_samples=max_bad_samples, pin_mem=pin_mem)
        self._pool = make_pool(sampler.seed, shape)

    def _change_size(self, size: tuple[int, int]) -> None:
        super()._change_size(size)
        self._pool = make_pool(self.sampler.seed, self.shape)

    def _decode_steps(self, steps: Iterable[BatchPlan]) -> Iterator[DecodedStep]:
        for step in steps:
            # NumPy: three times as fast as indexing the tensor.
            images = torch.from_numpy(self._pool.numpy()[step.index % POOL])
            yield DecodedStep(images=images, index=step.index, bad={})


def synthetic_labels(count: int) -> np.ndarray:
    """Return the labels of `count` samples, int64 [N]."""
    return np.arange(count) % CLASSES


def make_pool(seed: int, shape: tuple[int, int, int]) -> Tensor:
    """Draw the images, uint8 [POOL, H, W, C]."""
    height, width, channels = shape
    count = POOL * CELLS * CELLS * channels
    counter = np.zeros((-(-count // 4), 4), dtype=np.uint32)
    counter[:, 0] = np.arange(len(counter))
    values = uniform(philox(seed, counter)).reshape(-1)[:count]
    grid = torch.from_numpy(values).float().view(POOL, channels, CELLS, CELLS)
    smooth = functional.interpolate(grid, (height, width), mode="bilinear", align_corners=False)
    return (smooth * 255).round().byte().permute(0, 2, 3, 1).contiguous()
