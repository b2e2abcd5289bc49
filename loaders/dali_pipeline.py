"""NVIDIA DALI's part of `--dali`: JPEGs and windows in, resized crops out."""

from __future__ import annotations

import dataclasses
import io
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fastimae.loaders.crops import Crops
from fastimae.loaders.encoded import Jpeg
from fastimae.loaders.errors import DataError

DEPTH = 2
"""Batches that DALI works on at a time."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """What one batch needs to be decoded."""

    jpegs: list[Jpeg]
    windows: NDArray[np.int32]
    """[n, 4], (top, left, height, width), inside the images: DALI does not check."""
    flips: NDArray[np.int32]
    """[n], 1 where the crop is mirrored."""

    def part(self, rows: NDArray[np.int64]) -> Work:
        """Some of it."""
        jpegs = [self.jpegs[row] for row in rows.tolist()]
        return Work(jpegs=jpegs, windows=self.windows[rows], flips=self.flips[rows])


class DaliPipeline:
    """Decodes batches in the order in which they are fed.

    An error loses all batches under way, and DALI's pipeline with them: `take` raises it, as all
    further calls do, until `rebuild`. Used from one thread at a time.
    """

    def __init__(
        self,
        crops: Crops,
        *,
        batch_size: int,
        num_threads: int,
        device_id: int | None,
        hw_decoder_load: float,
        interpolation: Literal["cubic", "linear"] = "cubic",
    ) -> None:
        """device_id: the GPU that decodes, None for the CPU; batch_size: the largest there is.

        Raises `DataError` if DALI is missing or does not start.
        """
        self.crops, self.device_id = crops, device_id
        self._settings = {
            "batch_size": batch_size,
            "num_threads": num_threads,
            "device_id": device_id,
            "prefetch_queue_depth": DEPTH,
            "exec_dynamic": True,  # the default of late: batches are ours until we drop them
        }
        self._decoding = {"hw_decoder_load": hw_decoder_load} if device_id is not None else {}
        self._interpolation = f"INTERP_{interpolation.upper()}"
        self._error: Exception | None = None
        try:
            self._pipeline = self._build()
        except ImportError as error:
            raise DataError(
                f"--dali needs NVIDIA DALI ({error}): pip install 'fastimae[dali]', or for a "
                "driver of CUDA 12 nvidia-dali-cuda120"
            ) from error
        except Exception as error:
            raise DataError(f"--dali: DALI does not start: {one_line(error)}") from error

    def feed(self, work: Work) -> None:
        """Begin with a batch of 1 to `batch_size` images."""
        if self._error:
            return
        try:
            _feed(self._pipeline, work)
            self._pipeline.schedule_run()
        except Exception as error:
            self._error = error

    def take(self) -> Any:
        """The oldest batch fed and not yet taken, finished.

        A DALI TensorList that owns its memory, uint8 [n, H, W, C], on the GPU or the CPU.
        """
        if self._error:
            raise self._error
        try:
            (images,) = self._pipeline.outputs()
        except Exception as error:
            self._error = error
            raise
        return images

    def restore(self) -> None:
        """Start anew if an error has ended it."""
        if self._error:
            self.rebuild()

    def rebuild(self) -> None:
        """Start anew, without the batches under way."""
        self._pipeline, self._error = None, None
        self._pipeline = self._build()

    def close(self) -> None:
        """Stop DALI's threads and free its memory."""
        self._pipeline, self._error = None, ValueError("closed")

    def _build(self) -> Any:
        from nvidia.dali import pipeline_def

        pipeline = pipeline_def(self._graph, **self._settings)()
        # The first call of DALI starts as many batches as it works on at a time, and expects them
        # to be there. With these behind it, each call starts one.
        for _ in range(DEPTH):
            _feed(pipeline, _tiny())
        pipeline.schedule_run()
        for _ in range(DEPTH):
            pipeline.outputs()
        return pipeline

    def _graph(self) -> Any:
        from nvidia.dali import fn, types

        data = fn.external_source(name="data", dtype=types.UINT8, ndim=1)
        start, shape = (
            fn.external_source(name=name, dtype=types.INT32, ndim=1) for name in ("start", "shape")
        )
        flip = fn.external_source(name="flip", dtype=types.INT32, ndim=0)
        window = fn.decoders.image_slice(
            data,
            device="cpu" if self.device_id is None else "mixed",
            start=start,
            shape=shape,
            axes=[0, 1],
            output_type=types.RGB if self.crops.channels == 3 else types.GRAY,
            adjust_orientation=False,
            jpeg_fancy_upsampling=True,
            **self._decoding,
        )
        small = fn.resize(
            window,
            size=self.crops.size,
            interp_type=getattr(types, self._interpolation),
            antialias=True,
        )
        return fn.flip(small, horizontal=flip)


def _feed(pipeline: Any, work: Work) -> None:
    pipeline.feed_input("data", [np.frombuffer(jpeg.data, np.uint8) for jpeg in work.jpegs])
    pipeline.feed_input("start", np.ascontiguousarray(work.windows[:, :2]))
    pipeline.feed_input("shape", np.ascontiguousarray(work.windows[:, 2:]))
    pipeline.feed_input("flip", work.flips)


def _tiny() -> Work:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG")
    return Work(
        jpegs=[Jpeg(file.getvalue(), 8, 8)],
        windows=np.array([[0, 0, 8, 8]], np.int32),
        flips=np.zeros(1, np.int32),
    )


def one_line(error: Exception) -> str:
    """What DALI says of an error, without its traceback of the graph."""
    lines = [line.strip() for line in str(error).splitlines()]
    telling = [line for line in lines if line and not line.startswith(_NOISE)]
    return telling[-1] if telling else type(error).__name__


_NOISE = ("Critical error", "Error in", "which was used", "File ", "encountered:", "Current pipe")
