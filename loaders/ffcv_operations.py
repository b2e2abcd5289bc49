"""Users' own operations in the ffcv library's pipeline (`--ffcv_ops module:function`)."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from fastimae.loaders.errors import DataError

if TYPE_CHECKING:
    from ffcv.pipeline.operation import Operation


def load_operations(spec: str) -> list[Operation]:
    """What the function named by `spec`, as "module:function", returns: a list of operations.

    The module is also looked for in the current directory, there first. Raises `DataError`.
    """
    module_name, _, function_name = spec.partition(":")
    if not (module_name and function_name):
        raise DataError(f"--ffcv_ops {spec} is not of the form module:function")
    with torch_threads_kept(), _current_directory_first():
        with _blaming(spec, f"module {module_name} cannot be imported"):
            module = importlib.import_module(module_name)
        function = getattr(module, function_name, None)
        if not callable(function):
            raise DataError(f"--ffcv_ops {spec}: {module_name} has no function {function_name}")
        with _blaming(spec, f"{function_name}() failed"):
            operations = function()
    check_operations(operations)
    return list(operations)


def check_operations(operations: Any) -> None:
    """`DataError` unless these are operations that can follow our decoder."""
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
            raise DataError(f"--ffcv_ops: {kind} {operation!r} in the list is no ffcv Operation")
        if isinstance(operation, SimpleRGBImageDecoder):
            raise DataError(f"--ffcv_ops: leave {kind} out, images are already decoded and cropped")


def copy_result(result: Any, out: NDArray[np.uint8]) -> None:
    """Copy what the last operation returned to `out`, uint8 [n, H, W, 3].

    `DataError` if it is something else than a NumPy array or CPU tensor like `out`.
    """
    shape = list(getattr(result, "shape", ()))
    found = f"{type(result).__name__} {getattr(result, 'dtype', '')} {shape}"
    if isinstance(result, torch.Tensor):
        found += f" on {result.device.type}"
        result = result.detach().numpy() if result.device.type == "cpu" else None
    fits = isinstance(result, np.ndarray) and result.dtype == out.dtype
    if not fits or result.shape != out.shape:
        raise DataError(
            f"--ffcv_ops: the operations give {found}, not uint8 {list(out.shape)} on cpu"
        )
    np.copyto(out, result)


def library_missing(error: Exception) -> DataError:
    """The error for a library that cannot be imported."""
    return DataError(
        f"--decoder ffcv needs the ffcv library ({error}): pip install 'fastimae[ffcv]' after "
        "installing g++, pkg-config, libopencv-dev and libturbojpeg0-dev, or --decoder pillow"
    )


def in_one_line(error: BaseException) -> str:
    """Type and message of `error`."""
    return " ".join(f"{type(error).__name__}: {error}".split())


@contextlib.contextmanager
def torch_threads_kept() -> Iterator[None]:
    """The library sets torch's number of threads for the whole process, also when imported."""
    count = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(count)


@contextlib.contextmanager
def _current_directory_first() -> Iterator[None]:
    directory = os.getcwd()
    sys.path.insert(0, directory)
    try:
        yield
    finally:
        sys.path.remove(directory)


@contextlib.contextmanager
def _blaming(spec: str, what: str) -> Iterator[None]:
    """Turn any error inside the block, which is the user's, into a `DataError`."""
    try:
        yield
    except Exception as error:
        raise DataError(f"--ffcv_ops {spec}: {what} ({in_one_line(error)})") from error
