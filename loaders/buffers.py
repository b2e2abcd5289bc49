"""Memory for batches that is used again when nobody holds the batch any more."""

from __future__ import annotations

import weakref

import numpy as np
import torch
from torch import Tensor

KEPT = 4
"""Buffers kept for the next batches. More may be in use."""


class BufferPool:
    """Gives out uint8 tensors of one shape, their content undefined.

    Memory fresh from the system costs a page fault for every 4 KiB. torch itself keeps pinned
    memory, and waits for copies that are under way.
    """

    def __init__(self, shape: tuple[int, ...], *, pin: bool) -> None:
        self.shape, self.pin = shape, pin
        self._free: list[np.ndarray] = []

    def take(self) -> Tensor:
        """uint8 `shape`; its memory comes back when the last tensor that shares it is gone."""
        if self.pin:
            return torch.empty(self.shape, dtype=torch.uint8, pin_memory=True)
        memory = self._free.pop() if self._free else np.empty(self.shape, np.uint8)
        lent = memory.view()  # torch holds this object as long as it uses the memory
        weakref.finalize(lent, _give_back, self._free, memory).atexit = False
        return torch.from_numpy(lent)


def _give_back(free: list[np.ndarray], memory: np.ndarray) -> None:
    if len(free) < KEPT:
        free.append(memory)
