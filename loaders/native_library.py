"""The compiled decode library as a Python object; csrc/api.h describes its functions.

It is loaded with ctypes, which lets other Python threads run during every call, and uses nothing of
Python itself: one file serves every version of Python.

Dimensions: H height, W width, C channels, R rows of MCUs of a JPEG.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastimae.loaders.beton.trailer import ROW_START
from fastimae.loaders.images.limits import max_pixels

ABI = 3
"""kFastimaeAbi of csrc/api.h."""
SIMD = {"best": -1, "plain": 0, "avx2": 1, "avx512vnni": 2}
OK, DAMAGED, MISMATCH, CHECKSUM, UNSUPPORTED = range(5)
"""`Status` of csrc/image.h."""
HOW_TO_BUILD = (
    "install a C++ compiler and libjpeg-turbo's headers (on Debian: apt-get install g++ "
    "libjpeg-dev), then install FastIMAE again"
)
_MAX_ROWS = 65536 // 8  # the tallest JPEG, of the smallest MCUs

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
    "resize_bands": (_I, [_P, _I, _I, _I, _I, _P, _I, _I, _I]),
    "crc32": (ctypes.c_uint32, [_P, _L]),
}


class Inspection(NamedTuple):
    """The result of `inspect_jpeg`."""

    status: int
    """OK, DAMAGED or UNSUPPORTED."""
    problem: str | None
    """None if the status is OK."""
    rows: NDArray
    """ROW_START [R]; empty if our Huffman decoder cannot read the file."""


class NativeLibrary:
    """The C functions by their names without the prefix, some wrapped for Python's types."""

    def __init__(self, path: Path) -> None:
        """Raise OSError if the library cannot be loaded, or was built from other sources."""
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
        """Decode all of a JPEG file, to find damage and the starts of its rows."""
        source = np.frombuffer(data, np.uint8)
        rows = np.empty(_MAX_ROWS, ROW_START)
        count, problem = ctypes.c_int64(), self.problem_buffer(1)
        status = self._inspect(
            address(source), len(source), max_pixels(), address(rows), len(rows),
            ctypes.byref(count), address(problem),
        )  # fmt: skip
        reason = None if status == OK else problem_text(problem[0])
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
        """Decode the window (top, left, height, width) of a JPEG file of `size` (height, width).

        rows: the file's ROW_START [R], if known. Returns status, problem, and uint8
        [height, width, 3 or 1] if the status is OK.
        """
        source = np.frombuffer(data, np.uint8)
        known = np.ascontiguousarray(np.empty(0, ROW_START) if rows is None else rows)
        box = np.array(window, np.int32)
        out = np.empty(window[2] * window[3] * 3, np.uint8)
        channels, problem = ctypes.c_int(), self.problem_buffer(1)
        status = self._decode(
            address(source), len(source), *size, address(box), own_entropy, address(known),
            len(known), address(out), ctypes.byref(channels), address(problem),
        )  # fmt: skip
        if status != OK:
            return status, problem_text(problem[0]), None
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
        """Resize uint8 [H, W, C] to [*size, channels], as Pillow's bicubic filter does.

        Raises ValueError if this processor lacks `simd`.
        """
        pixels = np.ascontiguousarray(pixels)
        out = np.empty((*size, channels), np.uint8)
        if self._resize(address(pixels), *pixels.shape, address(out), *out.shape, flip, SIMD[simd]):
            raise ValueError(f"this processor lacks {simd}")
        return out

    def resize_bands(
        self,
        pixels_HWC: NDArray[np.uint8 | np.uint16],
        size: tuple[int, int],
        *,
        flip: bool = False,
    ) -> NDArray[np.uint8 | np.uint16]:
        """Resize pixels of any number of channels to [*size, C], as `bands.BandImage` does."""
        pixels_HWC = np.ascontiguousarray(pixels_HWC)
        out = np.empty((*size, pixels_HWC.shape[2]), pixels_HWC.dtype)
        if self._resize_bands(
            address(pixels_HWC), *pixels_HWC.shape, out.itemsize, address(out), *size, flip
        ):
            raise MemoryError
        return out

    def problem_buffer(self, rows: int) -> NDArray[np.uint8]:
        """Allocate uint8 [rows, bytes], where the C functions write why they failed."""
        return np.zeros((rows, self.problem_bytes()), np.uint8)

    def description(self) -> str:
        """Describe in a few words what the library uses."""
        version = self.libjpeg()
        turbo = f"libjpeg-turbo {version // 1000000}.{version // 1000 % 1000}.{version % 1000}"
        entropy = "own" if self.own_entropy() else "libjpeg's"
        return f"{turbo}, {entropy} Huffman decoder, {self.simd().decode()} resizing"


_WRAPPED = frozenset({"inspect", "decode", "resize", "resize_bands"})


def load() -> NativeLibrary | None:
    """Return the library, or None if it was not built or does not load."""
    return _load()[0]


def why_missing() -> str:
    """Return why `load` returns None, in one line."""
    return _load()[1]


@functools.cache
def _load() -> tuple[NativeLibrary | None, str]:
    path = Path(__file__).with_name("_native.so")
    if not path.exists():
        return None, f"the native engine was not built: {HOW_TO_BUILD}"
    try:
        return NativeLibrary(path), ""
    except OSError as error:
        return None, f"the native engine cannot be loaded ({error}): {HOW_TO_BUILD}"


def inspect_jpeg(data: bytes | memoryview) -> Inspection:
    """Call `NativeLibrary.inspect_jpeg`; only where `load` returns a library."""
    return load().inspect_jpeg(data)


def address(array: NDArray) -> int:
    """Return the address of the first value, for C. The array must be kept while C uses it."""
    return array.ctypes.data


def problem_text(problem: NDArray[np.uint8]) -> str:
    """Return the C string in a row of a `problem_buffer`."""
    return problem.tobytes().split(b"\0", 1)[0].decode("utf-8", "replace")
