"""A sample that is ready to be written to a `.beton` file."""

from __future__ import annotations

from typing import Literal, NamedTuple


class BetonSample(NamedTuple):
    """One encoded sample, and how it differs from the original image."""

    payload: bytes
    """A JPEG file, or pixels [height, width, channels]."""
    height: int
    width: int
    mode: Literal["jpg", "raw"]
    how: str
    """`PASSED_THROUGH`, the repair ("JPEG with stray bytes, mended"), or why it had to be encoded:
    "PNG", "CMYK JPEG", "too large" ..."""
    trailer: bytes
    shrunk: str = ""
    """Why it has fewer pixels than the original; "" if it has as many."""
    depth: str = ""
    """Depth of an original of more than the 8 bits that are kept: see `pixels.depth_of`."""
