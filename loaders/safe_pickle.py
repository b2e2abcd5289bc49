"""Pickles of plain values and arrays of bytes, read without trust: they may be anybody's."""

from __future__ import annotations

import io
import pickle
import pickletools
from typing import Any

import numpy as np

_MOST_REMEMBERED = 1 << 20
"""Objects; the unpickler would make a table as long as a number in the pickle says."""


def load_arrays(data: bytes) -> Any:
    """The object in a pickle, with text as bytes and arrays as uint8 [...].

    Not even NumPy's own classes are handed to the pickle: their states are trusted to be sound.

    Raises:
        Exception: the pickle is damaged, or asks for more than such values.
    """
    for operation, argument, _ in pickletools.genops(data):
        if "PUT" in operation.name and int(argument) > _MOST_REMEMBERED:
            raise pickle.UnpicklingError(f"it remembers {argument} objects")
    return _plain(_Unpickler(io.BytesIO(data), encoding="bytes").load())


class _Array:
    """Stands in for an array until it is read."""

    def __init__(self, *_: Any) -> None:
        self.pixels: np.ndarray | None = None

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, is_fortran, data = state
        if not isinstance(dtype, _Dtype) or is_fortran or not isinstance(data, bytes):
            raise pickle.UnpicklingError("an array of other than bytes")
        self.pixels = np.frombuffer(data, np.uint8).reshape(shape)


class _Dtype:
    """Stands in for the type uint8."""

    def __init__(self, name: bytes | str, *_: Any) -> None:
        if name not in ("u1", b"u1"):
            raise pickle.UnpicklingError(f"an array of {name!r}")

    def __setstate__(self, state: tuple) -> None:
        """Byte order and the like say nothing new of bytes."""


def _latin1(text: str, _encoding: str) -> bytes:
    return text.encode("latin1")


_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _latin1,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return _ALLOWED[module, name]


def _plain(value: Any) -> Any:
    """With arrays in the place of what stood for them, at the top of a dictionary."""
    if not isinstance(value, dict):
        raise pickle.UnpicklingError("it is no dictionary")
    return {key: item.pixels if isinstance(item, _Array) else item for key, item in value.items()}
