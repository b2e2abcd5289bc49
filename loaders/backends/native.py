"""A `.beton` file decoded by our own C++ engine (`--decoder native`): the default, the fastest.

The pixels are Pillow's, bit for bit. Pillow decodes what the engine does not support, such as CMYK.
csrc/engine.h describes how the threads share the work.

Dimensions: B images in a batch, n of them in a call, H height, W width, C channels.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections import deque
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fastimae.loaders.backends.native_engine import Engine, Job
from fastimae.loaders.base import DecodedStep
from fastimae.loaders.beton.image import open_sample
from fastimae.loaders.beton.loader import BetonLoader
from fastimae.loaders.beton.reader import BetonReader
from fastimae.loaders.images.crops import Crops
from fastimae.loaders.images.decode import (
    DecodeRows,
    Failures,
    Pixels,
    decode_replacements,
    decode_rows,
)
from fastimae.loaders.native_library import UNSUPPORTED
from fastimae.loaders.order.sampler import BatchPlan, Sampler
from fastimae.loaders.workers.buffers import BufferPool

BATCHES_AHEAD = 3
"""Batches that are made while the caller uses the current one."""


class NativeLoader(BetonLoader):
    """A loader with `num_workers` native threads; 0: the calling thread decodes.

    Its memory holds the current batch, `BATCHES_AHEAD` more, and one decoded window per thread; the
    file itself is mapped. Raises `DataError` if the engine was not built.
    """

    def __init__(
        self, reader: BetonReader, sampler: Sampler, crops: Crops, **settings: int
    ) -> None:
        super().__init__(reader, sampler, crops, **settings)
        self._start_engine()
        self._open = functools.partial(open_sample, reader)

    def _start_engine(self) -> None:
        self._engine = Engine(self.reader, self.crops, self.num_workers)
        self._buffers = BufferPool(
            (self.sampler.batch_size, *self.crops.shape), pin=self.pin, dtype=self.crops.dtype
        )

    def _change_size(self, size: tuple[int, int]) -> None:
        super()._change_size(size)
        self._engine.close()
        self._start_engine()

    def close(self) -> None:
        self._iteration.stop()
        self._engine.close()  # it reads from the file that the next line closes
        super().close()

    def rows_decoder(self, crops: Crops) -> DecodeRows:
        """See `Source` of device/store.py; the calling thread decodes."""
        return functools.partial(self._decode_as, crops)

    def stage_times(self) -> dict[str, float]:
        """Return the seconds of each stage since the start, or the last change of the image size,
        summed over threads, and "images", the number decoded.

        "read" compares each sample's bytes with their checksum, once; "entropy" is Huffman
        decoding, "pixels" the rest of decoding, "resize" antialiased bicubic resizing.
        """
        return self._engine.stage_times()

    def _decode_steps(self, steps: Iterable[BatchPlan]) -> Iterator[DecodedStep]:
        ahead = BATCHES_AHEAD if self.num_workers else 0
        in_flight: deque[_SubmittedStep] = deque()
        try:
            for step in steps:
                in_flight.append(self._start(step))
                if len(in_flight) > ahead:
                    yield self._finish(in_flight)
            while in_flight:
                yield self._finish(in_flight)
        finally:
            for submitted in in_flight:
                submitted.job.close()

    def _start(self, step: BatchPlan) -> _SubmittedStep:
        images = self._buffers.take()[: len(step.index)]
        job = self._submit(step.index, step.key, images.numpy())
        return _SubmittedStep(step=step, images=images, job=job)

    def _finish(self, in_flight: deque[_SubmittedStep]) -> DecodedStep:
        submitted = in_flight[0]
        index, key, out = submitted.step.index, submitted.step.key, submitted.images.numpy()
        failures = self._wait(submitted.job, self.crops, index, key, out)
        del in_flight[0]
        decoded, replaced, pixels = decode_replacements(
            self._decode, self.crops, index, key, failures
        )
        out[replaced] = pixels
        bad = {int(index[row]): reason for row, reason in failures.items()}
        return DecodedStep(images=submitted.images, index=decoded, bad=bad)

    def _submit(self, index: NDArray[np.int64], key: NDArray[np.int64], out: Pixels) -> Job:
        return self._engine.submit(index, *self._draw(self.crops, index, key), out)

    def _draw(
        self, crops: Crops, index: NDArray[np.int64], key: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        return crops.draw(key, self.reader.heights[index], self.reader.widths[index])

    def _wait(
        self,
        job: Job,
        crops: Crops,
        index: NDArray[np.int64],
        key: NDArray[np.int64],
        out: Pixels,
    ) -> Failures:
        """Wait for a job, and let Pillow decode what the engine does not support."""
        problems = job.wait()
        job.close()
        failures = {row: problem for row, (_, problem) in problems.items()}
        unsupported = [row for row, (status, _) in problems.items() if status == UNSUPPORTED]
        if unsupported:
            pixels = crops.empty(len(unsupported))
            failed = decode_rows(self._open, crops, index[unsupported], key[unsupported], pixels)
            for i, row in enumerate(unsupported):
                out[row] = pixels[i]
                del failures[row]
                if i in failed:
                    failures[row] = failed[i]
        return failures

    def _decode(self, index: NDArray[np.int64], key: NDArray[np.int64], out: Pixels) -> Failures:
        """Decode rows into `out`, [n, H, W, C], and wait for them."""
        return self._wait(self._submit(index, key, out), self.crops, index, key, out)

    def _decode_as(
        self, crops: Crops, index: NDArray[np.int64], key: NDArray[np.int64], out: Pixels
    ) -> Failures:
        """Decode rows with other crops, in this thread."""
        with contextlib.closing(Engine(self.reader, crops, threads=0)) as engine:
            job = engine.submit(index, *self._draw(crops, index, key), out)
            return self._wait(job, crops, index, key, out)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _SubmittedStep:
    """A step whose job the engine works on."""

    step: BatchPlan
    images: Tensor
    job: Job
