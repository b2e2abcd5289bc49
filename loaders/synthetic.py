"""Made-up images at memory speed: an upper bound for training speed, and data for tests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fastimae.loaders.base import Loader, Shown
from fastimae.loaders.philox import philox, uniform
from fastimae.loaders.sampler import Sampler, Step

CLASSES = 10
POOL = 50
"""Different images; a multiple of `CLASSES`, so that an image has one label."""
CELLS = 8
"""Cells per side of the random colour grid that is blown up to an image."""


class SyntheticLoader(Loader):
    """Sample i shows image i % POOL, a smooth colour pattern, and has label i % CLASSES.

    Neither crops nor flips.
    """

    def __init__(
        self, sampler: Sampler, *, shape: tuple[int, int, int], max_bad_samples: int, pin_mem: bool
    ) -> None:
        super().__init__(sampler, shape, max_bad_samples=max_bad_samples, pin_mem=pin_mem)
        self._pool = make_pool(sampler.seed, shape)

    def _show(self, steps: Iterable[Step]) -> Iterator[Shown]:
        for step in steps:
            # Three times as fast as indexing the tensor.
            images = torch.from_numpy(self._pool.numpy()[step.index % POOL])
            yield Shown(images=images, index=step.index, bad={})


def synthetic_labels(count: int) -> np.ndarray:
    """Labels int64 [count]."""
    return np.arange(count) % CLASSES


def make_pool(seed: int, shape: tuple[int, int, int]) -> Tensor:
    """The images, uint8 [POOL, H, W, C]."""
    height, width, channels = shape
    count = POOL * CELLS * CELLS * channels
    counter = np.zeros((-(-count // 4), 4), dtype=np.uint32)
    counter[:, 0] = np.arange(len(counter))
    values = uniform(philox(seed, counter)).reshape(-1)[:count]
    grid = torch.from_numpy(values).float().view(POOL, channels, CELLS, CELLS)
    smooth = functional.interpolate(grid, (height, width), mode="bilinear", align_corners=False)
    return (smooth * 255).round().byte().permute(0, 2, 3, 1).contiguous()
