"""DALI's graph behind `--dali`: JPEGs and windows in, resized crops out.

Dimensions: n images in a request, H height, W width, C channels.
"""

from __future__ import annotations

import dataclasses
import io
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fastimae.loaders.backends.dali_source import Jpeg
from fastimae.loaders.errors import DataError
from fastimae.loaders.images.crops import Crops

DEPTH = 2
"""Batches that DALI works on at a time."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecodeRequest:
    """Everything that DALI needs to decode one batch."""

    jpegs: list[Jpeg]
    windows: NDArray[np.int32]
    """int32 [n, 4], (top, left, height, width), inside the images: DALI does not check."""
    flips: NDArray[np.int32]
    """int32 [n], 1 where the crop is mirrored."""

    def part(self, rows: NDArray[np.int64]) -> DecodeRequest:
        """Return the request for some of the rows."""
        jpegs = [self.jpegs[row] for row in rows.tolist()]
        return DecodeRequest(jpegs=jpegs, windows=self.windows[rows], flips=self.flips[rows])


class DaliPipeline:
    """Decodes batches in the order in which they are fed.

    An error loses all batches in flight, and DALI's pipeline with them: `take` raises it, and so do
    all further calls until `rebuild`. For one thread at a time.
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
        """device_id: the GPU that decodes, None for the CPU; batch_size: the largest batch.

        Raises `DataError` if DALI is missing or does not start.
        """
        self.crops, self.device_id = crops, device_id
        self._settings = {
            "batch_size": batch_size,
            "num_threads": num_threads,
            "device_id": device_id,
            "prefetch_queue_depth": DEPTH,
            "exec_dynamic": True,  # newer versions' default: batches are ours until we drop them
        }
        self._decoding = {"hw_decoder_load": hw_decoder_load} if device_id is not None else {}
        self._interpolation = f"INTERP_{interpolation.upper()}"
        self._error: Exception | None = None
        try:
            self._pipeline = self._build()
        except ImportError as error:
            raise DataError(
                f"--dali needs NVIDIA DALI ({error}): pip install 'fastimae[dali]', or "
                "nvidia-dali-cuda120 for a driver of CUDA 12"
            ) from error
        except Exception as error:
            raise DataError(f"--dali: DALI does not start: {one_line(error)}") from error

    def feed(self, request: DecodeRequest) -> None:
        """Start to decode a batch of 1 to `batch_size` images."""
        if self._error:
            return
        try:
            _feed(self._pipeline, request)
            self._pipeline.schedule_run()
        except Exception as error:
            self._error = error

    def take(self) -> Any:
        """Wait for the oldest batch that was fed and not yet taken, and return it.

        It is a DALI TensorList that owns its memory, uint8 [n, H, W, C], on the GPU or the CPU.
        """
        if self._error:
            raise self._error
        try:
            (images,) = self._pipeline.outputs()
        except Exception as error:
            self._error = error
            raise
        return images

    def find_refused(self, request: DecodeRequest) -> dict[int, str]:
        """Return row -> reason of the images that DALI refuses, after an error; drop all in flight.

        Bisects, as an image that it refuses does not depend on the others.
        """
        self.rebuild()
        return self._bisect(request, np.arange(len(request.jpegs)))

    def _bisect(self, request: DecodeRequest, rows: NDArray[np.int64]) -> dict[int, str]:
        try:
            self.feed(request.part(rows))
            self.take()
            return {}
        except Exception as error:
            self.rebuild()
            if len(rows) == 1:
                return {int(rows[0]): one_line(error)}
        first, second = np.array_split(rows, 2)
        return self._bisect(request, first) | self._bisect(request, second)

    def restore(self) -> None:
        """Start again if an error has ended the pipeline."""
        if self._error:
            self.rebuild()

    def rebuild(self) -> None:
        """Start again, without the batches in flight."""
        self._pipeline, self._error = None, None
        self._pipeline = self._build()

    def close(self) -> None:
        """Stop DALI's threads and free its memory."""
        self._pipeline, self._error = None, ValueError("closed")

    def _build(self) -> Any:
        from nvidia.dali import pipeline_def

        pipeline = pipeline_def(self._graph, **self._settings)()
        # DALI's first run starts as many batches as it works on at a time, and expects all of them
        # to have been fed. After these tiny ones, each run starts one batch.
        for _ in range(DEPTH):
            _feed(pipeline, _tiny_request())
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


def _feed(pipeline: Any, request: DecodeRequest) -> None:
    pipeline.feed_input("data", [np.frombuffer(jpeg.data, np.uint8) for jpeg in request.jpegs])
    pipeline.feed_input("start", np.ascontiguousarray(request.windows[:, :2]))
    pipeline.feed_input("shape", np.ascontiguousarray(request.windows[:, 2:]))
    pipeline.feed_input("flip", request.flips)


def _tiny_request() -> DecodeRequest:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG")
    return DecodeRequest(
        jpegs=[Jpeg(file.getvalue(), 8, 8)],
        windows=np.array([[0, 0, 8, 8]], np.int32),
        flips=np.zeros(1, np.int32),
    )


def one_line(error: Exception) -> str:
    """Return DALI's error message without its traceback of the graph."""
    lines = [line.strip() for line in str(error).splitlines()]
    message = [line for line in lines if line and not line.startswith(_NOISE)]
    return message[-1] if message else type(error).__name__


_NOISE = ("Critical error", "Error in", "which was used", "File ", "encountered:", "Current pipe")
