"""The ffcv library's compiled pipeline, given windows instead of drawing them, one batch a call."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fastimae.loaders.errors import DataError

NOT_DECODED = 1
"""Status of a row whose window has no height."""

_ONE_BATCH_AT_A_TIME = threading.Lock()
"""Some of numba's threading layers abort the process when two threads run parallel code."""


class Pipeline:
    """Decodes batches of the file `path`; compiled at the first call. `DataError` without ffcv."""

    def __init__(
        self, path: Path, size: tuple[int, int], largest: int, batch_size: int, num_workers: int
    ) -> None:
        """size: (height, width) of the result; largest: pixels of the largest image decoded."""
        with _torch_threads_kept():
            self._epoch, self._node = _build(path, size, largest, batch_size, num_workers)

    def __call__(self, rows: NDArray[np.int64], out: NDArray[np.uint8]) -> NDArray[np.int32]:
        """Decode n <= batch_size samples.

        rows: [n, 6], each (sample, top, left, height, width, mirrored); out: [n, H, W, 3].
        Returns int32 [n]: 0, NOT_DECODED, or libjpeg-turbo's error.
        """
        from numba import set_num_threads

        status = np.zeros(len(rows), dtype=np.int32)
        # In place of the library's ring of buffers: a batch is the caller's to keep.
        self._epoch.memory_allocations["operation"][self._node] = (out[None], status[None])
        with _ONE_BATCH_AT_A_TIME:
            set_num_threads(self._epoch.loader.num_workers)
            self._epoch.run_pipeline(0, rows, 0, None)
        return status


class WindowDecoder:
    """The library's resized-crop decoder with windows from the caller, in the place of indices.

    Has the methods of an ffcv `Operation`, which cannot be a base class as long as the library is
    optional.
    """

    def __init__(self, size: tuple[int, int], largest: int) -> None:
        self.size, self.largest = size, largest

    def accept_field(self, field: Any) -> None:
        """The library tells which field is decoded; nothing depends on it."""

    def accept_globals(self, metadata: Any, memory_read: Callable[..., Any]) -> None:
        """Take the compiled function that reads a sample's bytes."""
        self.read = memory_read

    def declare_shared_memory(self, previous: Any) -> None:
        """There is none."""

    def generate_code_for_shared_state(self) -> None:
        """There is none."""

    def declare_state_and_memory(self, previous: Any) -> tuple[Any, None]:
        """The pipeline's state after this operation; `Pipeline` brings the memory."""
        state = dataclasses.replace(
            previous, jit_mode=True, shape=(*self.size, 3), dtype=np.dtype("u1")
        )
        return state, None

    def generate_code(self) -> Callable[..., NDArray[np.uint8]]:
        """The function that the library compiles."""
        from ffcv.fields.rgb_image import IMAGE_MODES
        from ffcv.libffcv import ctypes_imdecode, ctypes_resize
        from ffcv.pipeline.compiler import Compiler
        from numba import get_thread_id

        read, each = self.read, Compiler.get_iterator()
        jpg, workers = IMAGE_MODES["jpg"], Compiler.num_threads
        largest, (out_height, out_width) = self.largest, self.size

        def decode(rows, memory, metadata, storage):
            out, status = memory
            scratch = np.empty((workers, largest * 3), np.uint8)
            unmirrored = np.empty((workers, out_height, out_width, 3), np.uint8)
            for i in each(len(rows)):
                top, left, crop_height, crop_width = rows[i, 1], rows[i, 2], rows[i, 3], rows[i, 4]
                if crop_height == 0:
                    status[i] = NOT_DECODED
                    continue
                field = metadata[rows[i, 0]]
                height, width = np.uint32(field["height"]), np.uint32(field["width"])
                pixels = data = read(field["data_ptr"], storage)
                if field["mode"] == jpg:
                    pixels = scratch[get_thread_id()][: 3 * height * width]
                    status[i] = ctypes_imdecode(
                        data.ctypes.data, data.size, height, width,
                        pixels.ctypes.data, height, width, 0, 0, 1, 1, False, False,
                    )  # fmt: skip
                    if status[i] != 0:
                        continue
                image = pixels.reshape(height, width, 3)
                target = unmirrored[get_thread_id()] if rows[i, 5] else out[i]
                ctypes_resize(
                    0, image.ctypes.data, height, width,
                    top, top + crop_height, left, left + crop_width,
                    target.ctypes.data, out_height, out_width,
                )  # fmt: skip
                if rows[i, 5]:
                    out[i] = target[:, ::-1]
            return out

        decode.is_parallel = True
        return decode


def _build(
    path: Path, size: tuple[int, int], largest: int, batch_size: int, num_workers: int
) -> tuple[Any, int]:
    """An ffcv epoch whose `run_pipeline` decodes, and the number of its decoder's node."""
    try:
        import numba
        from ffcv.fields import RGBImageField
        from ffcv.loader import Loader
        from ffcv.loader.epoch_iterator import EpochIterator
        from ffcv.pipeline import PipelineSpec
        from ffcv.reader import Reader
    except (ImportError, OSError) as error:
        raise DataError(
            f"--decoder ffcv needs the ffcv library ({error}): pip install 'fastimae[ffcv]' after "
            "installing g++, pkg-config, libopencv-dev and libturbojpeg0-dev, or --decoder pillow"
        ) from error
    fields = Reader(str(path)).handlers
    image = next(name for name, field in fields.items() if isinstance(field, RGBImageField))
    pipelines: dict[str, Any] = dict.fromkeys(fields)
    pipelines[image] = PipelineSpec(image, decoder=WindowDecoder(size, largest))
    library = Loader(
        str(path),
        batch_size=batch_size,
        num_workers=min(max(1, num_workers), numba.config.NUMBA_NUM_THREADS),
        pipelines=pipelines,
        # Not used, but without it NumPy's global generator is.
        seed=0,
    )
    # An epoch of no batches: its own thread ends at once, and its pipeline is left to us.
    epoch = EpochIterator(library, [])
    epoch.join()
    return epoch, next(iter(library.graph.root_nodes)).id


@contextlib.contextmanager
def _torch_threads_kept() -> Iterator[None]:
    """The library sets torch's number of threads for the whole process, also when imported."""
    count = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(count)
