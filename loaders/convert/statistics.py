"""Mean and standard deviation of the channels of converted images, estimated from some of them.

ImageNet's are the defaults of --mean and --std for three channels; other data needs its own.

n images, P pixels of one, C channels.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from fastimae.loaders.images.pixel_form import PixelForm
from fastimae.loaders.order.epoch_steps import evenly_spaced

SAMPLED = 64
"""Images that are read."""


class ChannelStatistics(NamedTuple):
    """Of some images of a file, with values in 0..1 of the range of their type."""

    images: int
    mean: list[float]
    """[C]"""
    std: list[float]
    """[C]"""

    def __str__(self) -> str:
        mean, std = (" ".join(f"{value:.4f}" for value in values) for values in self[1:])
        return f"for training, estimated from {self.images} images: --mean {mean} --std {std}"


def sampled_statistics(path: Path, rows: np.ndarray, form: PixelForm) -> ChannelStatistics | None:
    """Compute the statistics of a few samples, evenly spaced; None if there are none.

    path: a .beton file, maybe incomplete; rows: ROW [N], its raw samples. Each pixel counts alike.
    """
    pixels, sums_2C = 0, np.zeros((2, form.channels))
    which = evenly_spaced(len(rows), SAMPLED)
    for row in rows[which]:
        count = int(row["size"]) // form.dtype.itemsize
        values = np.fromfile(path, form.dtype.newbyteorder("<"), count, offset=int(row["ptr"]))
        values_PC = values.reshape(-1, form.channels) / np.iinfo(form.dtype).max
        sums_2C += values_PC.sum(0), (values_PC**2).sum(0)
        pixels += len(values_PC)
    if not pixels:
        return None
    mean_C, square_C = sums_2C / pixels
    std_C = np.sqrt(np.maximum(square_C - mean_C**2, 0))
    return ChannelStatistics(len(which), mean_C.round(4).tolist(), std_C.round(4).tolist())
