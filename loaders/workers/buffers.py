"""A pool of memory for batches; a batch's memory is used again once the batch is dropped."""

from __future__ import annotations

import weakref

import numpy as np
import torch
from numpy.typing import DTypeLike
from torch import Tensor

KEPT = 4
"""Free buffers kept for the next batches; more may be in use."""


class BufferPool:
    """Gives out tensors of one shape and type, with undefined content.

    Reuse is faster: memory fresh from the system costs a page fault for every 4 KiB. Pinned memory
    is left to torch, which keeps it, and waits for copies from it that are in progress.
    """

    def __init__(self, shape: tuple[int, ...], *, pin: bool, dtype: DTypeLike = np.uint8) -> None:
        self.shape, self.pin, self.dtype = shape, pin, np.dtype(dtype)
        self._free: list[np.ndarray] = []

    def take(self) -> Tensor:
        """Return a tensor; its memory comes back when no tensor shares it any more."""
        if self.pin:
            return torch.empty(self.shape, dtype=torch_dtype(self.dtype), pin_memory=True)
        memory = self._free.pop() if self._free else np.empty(self.shape, self.dtype)
        lent = memory.view()  # torch holds this object as long as it uses the memory
        weakref.finalize(lent, _give_back, self._free, memory).atexit = False
        return torch.from_numpy(lent)


def torch_dtype(dtype: np.dtype) -> torch.dtype:
    """Return torch's name of a type."""
    return getattr(torch, dtype.name)


def _give_back(free: list[np.ndarray], memory: np.ndarray) -> None:
    if len(free) < KEPT:
        free.append(memory)
