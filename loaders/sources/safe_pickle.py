"""A safe reader for pickles of plain values and byte arrays: nothing in them is executed."""

from __future__ import annotations

import io
import pickle
import pickletools
from typing import Any

import numpy as np

_MOST_REMEMBERED = 1 << 20
"""Most objects in the memo table; the unpickler would allocate as many as the pickle claims."""


def load_arrays(data: bytes) -> Any:
    """Read the object in a pickle, with text as bytes and arrays as uint8 [...].

    Not even NumPy's own classes are available to the pickle, because they trust any state that they
    are given.

    Raises:
        Exception: the pickle is damaged, or asks for other types.
    """
    for operation, argument, _ in pickletools.genops(data):
        if "PUT" in operation.name and int(argument) > _MOST_REMEMBERED:
            raise pickle.UnpicklingError(f"its memo has {argument} objects")
    return _plain(_Unpickler(io.BytesIO(data), encoding="bytes").load())


class _Array:
    """A placeholder for an array until it is read."""

    def __init__(self, *_: Any) -> None:
        self.pixels: np.ndarray | None = None

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, is_fortran, data = state
        if not isinstance(dtype, _Dtype) or is_fortran or not isinstance(data, bytes):
            raise pickle.UnpicklingError("an array of something other than bytes")
        self.pixels = np.frombuffer(data, np.uint8).reshape(shape)


class _Dtype:
    """A placeholder for the dtype uint8, the only one allowed."""

    def __init__(self, name: bytes | str, *_: Any) -> None:
        if name not in ("u1", b"u1"):
            raise pickle.UnpicklingError(f"an array of {name!r}")

    def __setstate__(self, state: tuple) -> None:
        """Ignore byte order and the like, which do not matter for bytes."""


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
    """Replace the placeholders among a dictionary's values by their arrays."""
    if not isinstance(value, dict):
        raise pickle.UnpicklingError("it is not a dictionary")
    return {key: item.pixels if isinstance(item, _Array) else item for key, item in value.items()}
