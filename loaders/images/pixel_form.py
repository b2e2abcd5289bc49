"""What a pixel consists of: the number of channels and their type, one for all images of a set."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

DTYPES = (np.dtype(np.uint8), np.dtype(np.uint16))
MAX_CHANNELS = 1024


class PixelForm(NamedTuple):
    """The channels of a pixel, and their type."""

    channels: int
    dtype: np.dtype
    """One of DTYPES."""

    def __str__(self) -> str:
        return f"{self.channels} x {self.dtype}"

    @property
    def nbytes(self) -> int:
        """Bytes of a pixel."""
        return self.channels * self.dtype.itemsize


RGB8 = PixelForm(3, DTYPES[0])
"""Ordinary images; a loader makes gray from them with --in_chans 1."""
