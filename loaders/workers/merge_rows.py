"""Merges rows from several decoders into one batch, without waiting for the GPU.

Dimensions: B rows in the batch, n rows in a part, H height, W width, C channels.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def merge_rows(
    shape: tuple[int, ...],
    device: torch.device,
    parts: Iterable[tuple[NDArray[np.int64], Tensor]],
) -> Tensor:
    """Return a batch, uint8 `shape` = [B, H, W, C], on `device`, for its current stream.

    parts: rows, int64 [n], and their pixels, uint8 [n, H, W, C], on the host or on `device`. Each
    row must be in a part; if it is in several, the last one counts. The parts may be dropped at
    once; pinned memory must be torch's own.
    """
    images = torch.empty(shape, dtype=torch.uint8, device=device)
    for rows, pixels in parts:
        if len(rows):
            images.index_copy_(
                0, _copy_to(device, torch.from_numpy(rows)), _copy_to(device, pixels)
            )
    return images


def _copy_to(device: torch.device, tensor: Tensor) -> Tensor:
    """Copy to `device` by way of pinned memory.

    A copy from pageable memory would wait for all earlier work of the current stream; one from
    pinned memory does not. torch reuses memory that it pinned itself only after copies are done.
    """
    if device.type == "cuda" and not tensor.is_cuda:
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
