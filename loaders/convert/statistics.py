"""Mean and standard deviation of the channels of converted images, estimated from some of them.

ImageNet's are the defaults of --mean and --std for three channels; other data needs its own.

n images, P pixels of one, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastimae.loaders.images.pixel_form import PixelForm
from fastimae.loaders.order.epoch_steps import evenly_spaced

SAMPLED = 64
"""Images that are read."""
_PART_BYTES = 1 << 22


class ChannelStatistics(NamedTuple):
    """Of some images of a file, with values in 0..1 of the range of their type."""

    images: int
    mean: list[float]
    """[C]"""
    std: list[float]
    """[C]"""

    def __str__(self) -> str:
        shown = self.mean, [value or 1 for value in self.std]  # of a constant channel: any will do
        mean, std = (" ".join(f"{value:g}" for value in values) for values in shown)
        return f"for training, estimated from {self.images} images: --mean {mean} --std {std}"


def sampled_statistics(path: Path, rows: np.ndarray, form: PixelForm) -> ChannelStatistics | None:
    """Compute the statistics of a few samples, evenly spaced; None if there are none.

    path: a .beton file, maybe incomplete; rows: ROW [N], its raw samples. Each pixel counts alike.
    """
    pixels, sums_2C = 0, np.zeros((2, form.channels))
    which = evenly_spaced(len(rows), SAMPLED)
    for row in rows[which]:
        for values_PC in _parts(path, row, form):
            sums_2C += values_PC.sum(0), (values_PC**2).sum(0)
            pixels += len(values_PC)
    if not pixels:
        return None
    mean_C, square_C = sums_2C / pixels
    std_C = np.sqrt(np.maximum(square_C - mean_C**2, 0))
    return ChannelStatistics(len(which), _short(mean_C), _short(std_C))


def _parts(path: Path, row: np.ndarray, form: PixelForm) -> Iterator[NDArray[np.float64]]:
    """Read the pixels of a sample in parts, [P, C] in 0..1: images may be larger than memory."""
    end = int(row["ptr"]) + int(row["size"])
    step = max(1, _PART_BYTES // form.nbytes) * form.nbytes
    for start in range(int(row["ptr"]), end, step):
        count = min(step, end - start) // form.dtype.itemsize
        values = np.fromfile(path, form.dtype.newbyteorder("<"), count, offset=start)
        yield values.reshape(-1, form.channels) / np.iinfo(form.dtype).max


def _short(values: NDArray[np.float64]) -> list[float]:
    """Round to four digits: of 16 bits, data may use a small part."""
    return [float(f"{value:.4g}") for value in values]
