"""Decodes the samples of a run once, into memory of a device.

Threads decode a few megabytes at a time, so that the host needs little memory.

M = samples that are used, n = some of one size; h, w = rows, columns of an image, C = channels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastimae.kernels import PixelStore
from fastimae.kernels.resize_taps import taps_bytes
from fastimae.loaders.images.crops import Crops
from fastimae.loaders.images.decode import DecodeRows, Failures
from fastimae.loaders.workers.buffers import torch_dtype
from fastimae.loaders.workers.read_ahead import start_ahead, thread_pool
from fastimae.progress import Meter

CHUNK_BYTES = 4 << 20
"""Most bytes that are decoded at once by a thread, unless one image has more."""


@runtime_checkable
class Source(Protocol):
    """What a loader offers whose samples can be kept on a device."""

    def sizes(self, samples: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return heights and widths of samples, int64 [M]; 1 x 1 where a sample is broken."""

    def rows_decoder(self, crops: Crops) -> DecodeRows:
        """Return a function that decodes with these crops, in any thread."""


class Sizes(NamedTuple):
    """The sizes in which samples are kept."""

    samples: NDArray[np.int64]
    """[M], positions in the data set."""
    heights: NDArray[np.int64]
    """[M], in pixels."""
    widths: NDArray[np.int64]
    """[M]"""

    @classmethod
    def final(cls, samples: NDArray[np.int64], size: tuple[int, int]) -> Sizes:
        """Return those of samples that are kept as crops of one size."""
        return cls(samples, *(np.full(len(samples), side) for side in size))

    def values(self, channels: int) -> NDArray[np.int64]:
        """Return the number of values of each image, [M]."""
        return self.heights * self.widths * channels

    @property
    def longest(self) -> int:
        """The longest side."""
        return int(max(self.heights.max(), self.widths.max()))

    def pixel_bytes(self, crops: Crops) -> int:
        """Return what all pixels take."""
        return int(self.values(crops.channels).sum()) * crops.dtype.itemsize

    def bytes(self, crops: Crops) -> int:
        """Return what all pixels take, and the filters for windows in the longest image."""
        taps = taps_bytes(self.longest, crops.size, torch_dtype(crops.dtype))
        return self.pixel_bytes(crops) + taps


def fill_store(
    source: Source,
    sizes: Sizes,
    crops: Crops,
    device: torch.device,
    *,
    num_workers: int,
    quiet: bool,
) -> tuple[PixelStore, Failures]:
    """Decode all samples whole, in their sizes: row i of the store is sample `samples[i]`.

    num_workers: threads; 0: the calling one decodes. quiet: show no progress.
    Returns the store, and why samples cannot be decoded, by sample: their pixels are undefined.
    """
    values_M = sizes.values(crops.channels)
    order = np.lexsort((sizes.widths, sizes.heights))  # images of one size side by side
    start_M = np.empty_like(values_M)
    start_M[order] = values_M[order].cumsum() - values_M[order]
    dtype = torch_dtype(crops.dtype)
    pixels_P = torch.empty(int(values_M.sum()), dtype=dtype, device=device)
    bad: Failures = {}
    decode = partial(_decode, source, sizes, crops, pin=device.type == "cuda")
    name = f"images to {device}"
    with thread_pool(num_workers) as pool, Meter(len(order), name, "img", quiet=quiet) as meter:
        submit = partial(pool.submit, decode)
        for done in start_ahead(submit, _chunks(order, sizes, crops), 2 * num_workers):
            rows, pixels, failures = done.result()
            first = int(start_M[rows[0]])
            into = pixels_P[first : first + pixels.numel()]
            into.copy_(pixels.view(-1), non_blocking=True)
            bad |= {int(sizes.samples[rows[i]]): reason for i, reason in failures.items()}
            meter.update(len(rows))
    start, height, width = (
        torch.from_numpy(array).to(device)
        for array in (start_M, sizes.heights.astype(np.int32), sizes.widths.astype(np.int32))
    )
    return PixelStore(pixels_P, start, height, width, crops.channels), bad


def _decode(
    source: Source, sizes: Sizes, crops: Crops, rows: NDArray[np.int64], *, pin: bool
) -> tuple[NDArray[np.int64], Tensor, Failures]:
    """Decode rows of one size. Returns them, their pixels [n, h, w, C], and what failed."""
    size = int(sizes.heights[rows[0]]), int(sizes.widths[rows[0]])
    whole = dataclasses.replace(crops, size=size, random=False, hflip=False)
    shape, dtype = (len(rows), *whole.shape), torch_dtype(crops.dtype)
    pixels = torch.empty(shape, dtype=dtype, pin_memory=pin)
    index = sizes.samples[rows]
    failures = source.rows_decoder(whole)(index, np.zeros_like(index), pixels.numpy())
    return rows, pixels, failures


def _chunks(order: NDArray[np.int64], sizes: Sizes, crops: Crops) -> Iterator[NDArray[np.int64]]:
    """Yield the rows in `order`, [M], those of one size in chunks."""
    shapes = np.stack([sizes.heights, sizes.widths], axis=1)[order]
    ends = np.flatnonzero((shapes[1:] != shapes[:-1]).any(axis=1)) + 1
    for same in np.split(order, ends):
        image_bytes = int(sizes.values(crops.channels)[same[0]]) * crops.dtype.itemsize
        count = max(1, CHUNK_BYTES // image_bytes)
        yield from (same[first : first + count] for first in range(0, len(same), count))
