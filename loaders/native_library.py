"""The compiled decode engine as a Python object; its functions are described in csrc/api.h.

It is loaded with ctypes, which lets other Python threads run during every call.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.machinery
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastimae.loaders.limits import max_pixels
from fastimae.loaders.trailer import ROW_START

ABI = 2
"""kFastimaeAbi of csrc/api.h."""
SIMD = {"best": -1, "plain": 0, "avx2": 1, "avx512vnni": 2}
OK, DAMAGED, MISMATCH, CHECKSUM, UNSUPPORTED = range(5)
"""fastimae::Status."""
HOW_TO_BUILD = (
    "install a C++ compiler and libjpeg-turbo's headers (on Debian: apt-get install g++ "
    "libjpeg-dev), then install FastIMAE again"
)
_MAX_ROWS = 65536 // 8

_P, _I, _L = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
_SIGNATURES = {
    "abi": (_I, []),
    "problem_bytes": (_I, []),
    "simd": (ctypes.c_char_p, []),
    "libjpeg": (_I, []),
    "own_entropy": (_I, []),
    "engine_new": (_P, [_P, _I, _I, _I, _L, _I]),
    "engine_free": (None, [_P]),
    "submit": (_P, [_P, _P]),
    "wait": (_I, [_P, _P, _I]),
    "job_free": (None, [_P, _P]),
    "stage_times": (None, [_P, _P]),
    "inspect": (ctypes.c_int32, [_P, _L, _L, _P, _L, _P, _P]),
    "decode": (ctypes.c_int32, [_P, _L, _I, _I, _P, _I, _P, _L, _P, _P, _P]),
    "resize": (_I, [_P, _I, _I, _I, _P, _I, _I, _I, _I, _I]),
    "crc32": (ctypes.c_uint32, [_P, _L]),
}


class Inspection(NamedTuple):
    """What `inspect_jpeg` found."""

    status: int
    """OK, DAMAGED or UNSUPPORTED."""
    problem: str | None
    """None if the status is OK."""
    rows: NDArray
    """ROW_START [R], one for each row of MCUs; empty if our Huffman decoder cannot read it."""


class NativeLibrary:
    """The C functions by their names without the prefix, and some of them for Python's types."""

    def __init__(self, path: Path) -> None:
        """Raises OSError if the library cannot be loaded, or was built from other sources."""
        self._library = ctypes.CDLL(str(path))
        for name, (result, arguments) in _SIGNATURES.items():
            try:
                function = getattr(self._library, f"fastimae_{name}")
            except AttributeError:
                raise OSError(f"{path} was built from other sources") from None
            function.restype, function.argtypes = result, arguments
            setattr(self, name if name not in _WRAPPED else f"_{name}", function)
        if self.abi() != ABI:
            raise OSError(f"{path} was built from other sources")

    def inspect_jpeg(self, data: bytes | memoryview) -> Inspection:
        """Decode a whole JPEG file, looking for damage and for where its rows start."""
        source = np.frombuffer(data, np.uint8)
        rows = np.empty(_MAX_ROWS, ROW_START)
        count, problem = ctypes.c_int64(), self.problem_buffer(1)
        status = self._inspect(
            pointer(source), len(source), max_pixels(), pointer(rows), len(rows),
            ctypes.byref(count), pointer(problem),
        )  # fmt: skip
        reason = None if status == OK else text(problem[0])
        return Inspection(status, reason, rows[: count.value].copy())

    def decode(
        self,
        data: bytes | memoryview,
        size: tuple[int, int],
        window: tuple[int, int, int, int],
        *,
        own_entropy: bool = True,
        rows: NDArray | None = None,
    ) -> tuple[int, str, NDArray[np.uint8] | None]:
        """The window (top, left, height, width) of a JPEG file of `size` (height, width).

        rows: ROW_START [R] that are taken as known. Returns status, problem, and uint8
        [height, width, 3 or 1] if the status is OK.
        """
        source = np.frombuffer(data, np.uint8)
        known = np.ascontiguousarray(np.empty(0, ROW_START) if rows is None else rows)
        place = np.array(window, np.int32)
        out = np.empty(window[2] * window[3] * 3, np.uint8)
        channels, problem = ctypes.c_int(), self.problem_buffer(1)
        status = self._decode(
            pointer(source), len(source), *size, pointer(place), own_entropy, pointer(known),
            len(known), pointer(out), ctypes.byref(channels), pointer(problem),
        )  # fmt: skip
        if status != OK:
            return status, text(problem[0]), None
        shape = (window[2], window[3], channels.value)
        return OK, "", out[: np.prod(shape)].reshape(shape)

    def resize(
        self,
        pixels: NDArray[np.uint8],
        size: tuple[int, int],
        *,
        channels: int = 3,
        flip: bool = False,
        simd: str = "best",
    ) -> NDArray[np.uint8]:
        """uint8 [H, W, C] resized to [*size, channels] as Pillow's bicubic does.

        Raises ValueError if this processor lacks `simd`.
        """
        pixels = np.ascontiguousarray(pixels)
        out = np.empty((*size, channels), np.uint8)
        if self._resize(pointer(pixels), *pixels.shape, pointer(out), *out.shape, flip, SIMD[simd]):
            raise ValueError(f"this processor lacks {simd}")
        return out

    def problem_buffer(self, rows: int) -> NDArray[np.uint8]:
        """uint8 [rows, bytes], for the C functions to write why they failed."""
        return np.zeros((rows, self.problem_bytes()), np.uint8)

    def description(self) -> str:
        """What the library uses, in a few words."""
        version = self.libjpeg()
        turbo = f"libjpeg-turbo {version // 1000000}.{version // 1000 % 1000}.{version % 1000}"
        entropy = "own" if self.own_entropy() else "libjpeg's"
        return f"{turbo}, {entropy} Huffman decoder, {self.simd().decode()} resizing"


_WRAPPED = frozenset({"inspect", "decode", "resize"})


def load() -> NativeLibrary | None:
    """The library, or None where it was not built."""
    return _load()[0]


def why_missing() -> str:
    """Why `load` gives None, in one line."""
    return _load()[1]


@functools.cache
def _load() -> tuple[NativeLibrary | None, str]:
    folder = Path(__file__).parent
    paths = [folder / f"_native{suffix}" for suffix in importlib.machinery.EXTENSION_SUFFIXES]
    path = next((path for path in paths if path.exists()), None)
    if path is None:
        return None, f"the native engine was not built: {HOW_TO_BUILD}"
    try:
        return NativeLibrary(path), ""
    except OSError as error:
        return None, f"the native engine cannot be loaded ({error}): {HOW_TO_BUILD}"


def inspect_jpeg(data: bytes | memoryview) -> Inspection:
    """`NativeLibrary.inspect_jpeg`; only where `load` gives a library."""
    return load().inspect_jpeg(data)


def pointer(array: NDArray) -> int:
    """Address of the first value, for C; the array must be kept while it is in use."""
    return array.ctypes.data


def text(problem: NDArray[np.uint8]) -> str:
    """The C string in a row of a `problem_buffer`."""
    return problem.tobytes().split(b"\0", 1)[0].decode("utf-8", "replace")
