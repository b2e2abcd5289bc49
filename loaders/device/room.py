"""Whether the samples of a run fit into a device's memory.

M = samples that are used.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from numpy.typing import NDArray

from fastimae.loaders.beton.ram_cache import available_bytes
from fastimae.loaders.device.store import Sizes, Source
from fastimae.loaders.errors import DataError
from fastimae.loaders.images.crops import Crops
from fastimae.loaders.order.epoch_steps import evenly_spaced
from fastimae.loaders.settings import DEVICE_SHARE
from fastimae.loaders.workers.read_ahead import start_ahead, thread_pool

_SAMPLED, _MEASURED_AT_ONCE = 32, 256


def room_for(
    source: Source,
    samples: NDArray[np.int64],
    crops: Crops,
    device: torch.device,
    cache: str,
    *,
    num_workers: int,
    alone: bool = True,
) -> Sizes | None:
    """Return the sizes in which samples, int64 [M], are kept on a device; None if they are not.

    cache: --cache. "auto" keeps them if they take at most `DEVICE_SHARE` of the device's memory and
    fit into what is free. It leaves a data set alone in which a few images tell that it is larger.
    alone: whether there is one rank; several have to decide alike, whatever is free on each.
    Raises `DataError` if they have to be kept, and there is no room.
    """
    free, total = memory(device)
    share = int(total * DEVICE_SHARE)
    if cache == "auto" and crops.random:
        some = samples[evenly_spaced(len(samples), _SAMPLED)]
        pixels = Sizes(some, *source.sizes(some)).pixel_bytes(crops)
        if pixels * len(samples) > 2 * share * len(some):
            return None
    sizes = _measured(source, samples, crops, num_workers)
    needed = sizes.bytes(crops)
    if cache == "auto" and (needed > share or (needed > free and alone)):
        return None
    if needed <= free:
        return sizes
    raise DataError(
        f"--cache {cache}: {len(samples)} decoded images take {needed / 1e9:.3g} GB, and {device} "
        f"has {free / 1e9:.3g} of {total / 1e9:.3g} GB free: choose --cache none, fewer images "
        "(--images), or a smaller file (fastimae-convert --max_resolution)"
    )


def memory(device: torch.device) -> tuple[int, int]:
    """Return how many bytes a device, or this machine, has free and in total."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)
    try:
        return (free := available_bytes()), free
    except OSError:  # only Linux tells
        return sys.maxsize, sys.maxsize


def _measured(source: Source, samples: NDArray[np.int64], crops: Crops, num_workers: int) -> Sizes:
    """Return the sizes of images, or of crops if these are of whole images."""
    if not crops.random:
        return Sizes.final(samples, crops.size)
    parts = np.array_split(samples, -(-len(samples) // _MEASURED_AT_ONCE))
    with thread_pool(num_workers) as pool:
        sizes = start_ahead(lambda part: pool.submit(source.sizes, part), parts, 2 * num_workers)
        heights, widths = zip(*(size.result() for size in sizes), strict=True)
    return Sizes(samples, np.concatenate(heights), np.concatenate(widths))
