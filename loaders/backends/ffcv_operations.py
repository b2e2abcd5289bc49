"""Operations of the ffcv library's pipeline: our decoder, and users' own (`--ffcv_ops`)."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from fastimae.loaders.errors import DataError
from fastimae.user_code import call_user_function, import_from_spec

if TYPE_CHECKING:
    from ffcv.pipeline.operation import Operation

NOT_DECODED, DECODING, NOT_STARTED = 1, 2, 3
"""Status of a row: empty window, being decoded, waiting. 0: decoded; negative: libjpeg-turbo's
error."""


class WindowDecoder:
    """The library's resized-crop decoder, with windows from the caller instead of random ones.

    It has the methods of an ffcv `Operation`, which cannot be the base class because the library is
    optional.
    """

    def __init__(self, size: tuple[int, int], largest: int) -> None:
        self.size, self.largest = size, largest

    def accept_field(self, field: Any) -> None:
        """Ignore the field that is decoded: nothing depends on it."""

    def accept_globals(self, metadata: Any, memory_read: Callable[..., Any]) -> None:
        """Take the compiled function that reads a sample's bytes."""
        self.read = memory_read

    def declare_shared_memory(self, previous: Any) -> None:
        """Declare nothing."""

    def generate_code_for_shared_state(self) -> None:
        """Generate nothing."""

    def declare_state_and_memory(self, previous: Any) -> tuple[Any, None]:
        """Return the pipeline's state after this operation; `Pipeline` supplies the memory."""
        state = dataclasses.replace(
            previous, jit_mode=True, shape=(*self.size, 3), dtype=np.dtype("u1")
        )
        return state, None

    def generate_code(self) -> Callable[..., NDArray[np.uint8]]:
        """Return the function that the library compiles."""
        from ffcv.fields.rgb_image import IMAGE_MODES
        from ffcv.libffcv import ctypes_imdecode, ctypes_resize
        from ffcv.pipeline.compiler import Compiler
        from numba import get_thread_id

        read, each = self.read, Compiler.get_iterator()
        jpg, workers = IMAGE_MODES["jpg"], Compiler.num_threads
        largest, (out_height, out_width) = self.largest, self.size

        def decode(index, memory, metadata, storage):
            out, status, windows = memory
            scratch = np.empty((workers, largest * 3), np.uint8)
            unmirrored = np.empty((workers, out_height, out_width, 3), np.uint8)
            for i in each(len(index)):
                status[i] = DECODING
                top, left, crop_height = windows[i, 0], windows[i, 1], windows[i, 2]
                crop_width, mirrored = windows[i, 3], windows[i, 4]
                if crop_height == 0:
                    out[i] = 0
                    status[i] = NOT_DECODED
                    continue
                field = metadata[index[i]]
                height, width = np.uint32(field["height"]), np.uint32(field["width"])
                pixels = data = read(field["data_ptr"], storage)
                if field["mode"] == jpg:
                    pixels = scratch[get_thread_id()][: 3 * height * width]
                    error = ctypes_imdecode(
                        data.ctypes.data, data.size, height, width,
                        pixels.ctypes.data, height, width, 0, 0, 1, 1, False, False,
                    )  # fmt: skip
                    if error != 0:
                        out[i] = 0
                        status[i] = error
                        continue
                image = pixels.reshape(height, width, 3)
                target = unmirrored[get_thread_id()] if mirrored else out[i]
                ctypes_resize(
                    0, image.ctypes.data, height, width,
                    top, top + crop_height, left, left + crop_width,
                    target.ctypes.data, out_height, out_width,
                )  # fmt: skip
                if mirrored:
                    # Not `out[i] = target[:, ::-1]`: numba would compile its errors for 5 s.
                    for row in range(out_height):
                        for column in range(out_width):
                            for channel in range(3):
                                pixel = target[row, out_width - 1 - column, channel]
                                out[i, row, column, channel] = pixel
                status[i] = 0
            return out

        decode.is_parallel = True
        return decode


def load_operations(spec: str) -> list[Operation]:
    """Call the function named by `spec`, see `import_from_spec`, and return its list of operations.

    Raises `DataError`.
    """
    with torch_threads_kept():
        function = import_from_spec("--ffcv_ops", spec, "function", callable, DataError)
        operations = call_user_function("--ffcv_ops", spec, function, DataError)
    check_operations(operations)
    return list(operations)


def check_operations(operations: Any) -> None:
    """Raise `DataError` unless these are operations that can follow our decoder."""
    with torch_threads_kept():
        try:
            from ffcv.fields.rgb_image import SimpleRGBImageDecoder
            from ffcv.pipeline.operation import Operation
        except (ImportError, OSError) as error:
            raise library_missing(error) from error
    if not isinstance(operations, list | tuple):
        kind = type(operations).__name__
        raise DataError(f"--ffcv_ops: expected a list of ffcv Operations, not a {kind}")
    for operation in operations:
        kind = type(operation).__name__
        if not isinstance(operation, Operation):
            raise DataError(f"--ffcv_ops: {kind} {operation!r} is not an ffcv Operation")
        if isinstance(operation, SimpleRGBImageDecoder):
            raise DataError(f"--ffcv_ops: leave {kind} out, images are already decoded and cropped")


def copy_result(result: Any, out: NDArray[np.uint8]) -> None:
    """Copy the result of the last operation to `out`, uint8 [n, H, W, 3].

    Raises `DataError` unless it is a NumPy array or CPU tensor of the type and shape of `out`.
    """
    shape = list(getattr(result, "shape", ()))
    given = f"{type(result).__name__} {getattr(result, 'dtype', '')} {shape}"
    if isinstance(result, torch.Tensor):
        given += f" on {result.device.type}"
        result = result.detach().numpy() if result.device.type == "cpu" else None
    fits = isinstance(result, np.ndarray) and result.dtype == out.dtype
    if not fits or result.shape != out.shape:
        raise DataError(
            f"--ffcv_ops: the operations give {given}, not uint8 {list(out.shape)} on cpu"
        )
    np.copyto(out, result)


def library_missing(error: Exception) -> DataError:
    """Return the error for a library that cannot be imported."""
    return DataError(
        f"--decoder ffcv needs the ffcv library ({error}): pip install 'fastimae[ffcv]' after "
        "installing g++, pkg-config, libopencv-dev and libturbojpeg0-dev, or --decoder pillow"
    )


@contextlib.contextmanager
def torch_threads_kept() -> Iterator[None]:
    """Keep torch's number of threads: the library sets it for the whole process, even on import."""
    count = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(count)
