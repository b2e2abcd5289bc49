"""One batch out of rows that were made in several places, without waiting for the GPU."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def joined(
    shape: tuple[int, ...],
    device: torch.device,
    parts: Iterable[tuple[NDArray[np.int64], Tensor]],
) -> Tensor:
    """uint8 `shape`, [B, H, W, C], on `device`, for its present stream.

    parts: rows, int64 [n], and their pixels, uint8 [n, H, W, C], on the host or on `device`. Each
    row must be in one of them; where it is in two, the later one counts. They may be dropped at
    once; pinned memory must be torch's.
    """
    images = torch.empty(shape, dtype=torch.uint8, device=device)
    for rows, pixels in parts:
        if len(rows):
            images.index_copy_(0, _on(device, torch.from_numpy(rows)), _on(device, pixels))
    return images


def _on(device: torch.device, tensor: Tensor) -> Tensor:
    """A copy from pageable memory would wait for all that the present stream has to do first.

    One from pinned memory does not, and torch uses what it has pinned itself for something else
    only when the copies from it are done.
    """
    if device.type == "cuda" and not tensor.is_cuda:
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
