"""A `.beton` file decoded by our own engine in C++: the default, and the fastest.

The pixels are those of Pillow, bit for bit. What the engine does not read (CMYK, for instance)
goes to Pillow. See csrc/engine.h for how the threads share the work.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import deque
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fastimae.loaders.base import Shown
from fastimae.loaders.beton import BetonReader
from fastimae.loaders.beton_loader import BetonLoader
from fastimae.loaders.buffers import BufferPool
from fastimae.loaders.crops import Crops
from fastimae.loaders.decode import Failures, decode_rows, decode_stand_ins
from fastimae.loaders.native_engine import Engine, Job
from fastimae.loaders.native_library import UNSUPPORTED
from fastimae.loaders.pillow_loader import open_sample
from fastimae.loaders.sampler import Sampler, Step

BATCHES_AHEAD = 3


class NativeLoader(BetonLoader):
    """A loader with `num_workers` native threads (0: the calling one).

    In memory are the batch asked for, `BATCHES_AHEAD` more, and one decoded window a thread; the
    file itself is mapped. `DataError` if the engine was not built.
    """

    def __init__(
        self, reader: BetonReader, sampler: Sampler, crops: Crops, **settings: int
    ) -> None:
        super().__init__(reader, sampler, crops, **settings)
        self._engine = Engine(reader, crops, self.num_workers)
        self._buffers = BufferPool((sampler.batch_size, *crops.shape), pin=self.pin)
        self._open = functools.partial(open_sample, reader)

    def close(self) -> None:
        self._running.stop()
        self._engine.close()  # it reads from the file that the next line closes
        super().close()

    def stage_times(self) -> dict[str, float]:
        """Seconds since the start by stage, summed over threads, and "images", how many came out.

        "read" compares each sample's bytes with their checksum, once; "entropy" is Huffman
        decoding, "pixels" the rest of decoding, "resize" the antialiased bicubic.
        """
        return self._engine.stage_times()

    def _show(self, steps: Iterable[Step]) -> Iterator[Shown]:
        ahead = BATCHES_AHEAD if self.num_workers else 0
        under_way: deque[_Started] = deque()
        try:
            for step in steps:
                under_way.append(self._start(step))
                if len(under_way) > ahead:
                    yield self._finish(under_way)
            while under_way:
                yield self._finish(under_way)
        finally:
            for started in under_way:
                started.job.close()

    def _start(self, step: Step) -> _Started:
        images = self._buffers.take()[: len(step.index)]
        job = self._submit(step.index, step.key, images.numpy())
        return _Started(step=step, images=images, job=job)

    def _finish(self, under_way: deque[_Started]) -> Shown:
        started = under_way[0]
        index, key, out = started.step.index, started.step.key, started.images.numpy()
        failures = self._outcome(started.job, index, key, out)
        del under_way[0]
        shown, rows, pixels = decode_stand_ins(self._decode, self.crops, index, key, failures)
        out[rows] = pixels
        bad = {int(index[row]): reason for row, reason in failures.items()}
        return Shown(images=started.images, index=shown, bad=bad)

    def _submit(
        self, index: NDArray[np.int64], key: NDArray[np.int64], out: NDArray[np.uint8]
    ) -> Job:
        heights, widths = self.reader.heights[index], self.reader.widths[index]
        return self._engine.submit(index, *self.crops.draw(key, heights, widths), out)

    def _outcome(
        self, job: Job, index: NDArray[np.int64], key: NDArray[np.int64], out: NDArray[np.uint8]
    ) -> Failures:
        """Wait for a job and have Pillow read what the engine does not support."""
        problems = job.wait()
        job.close()
        failures = {row: problem for row, (_, problem) in problems.items()}
        foreign = [row for row, (status, _) in problems.items() if status == UNSUPPORTED]
        if foreign:
            pixels = np.empty((len(foreign), *self.crops.shape), np.uint8)
            again = decode_rows(self._open, self.crops, index[foreign], key[foreign], pixels)
            for i, row in enumerate(foreign):
                out[row] = pixels[i]
                del failures[row]
                if i in again:
                    failures[row] = again[i]
        return failures

    def _decode(
        self, index: NDArray[np.int64], key: NDArray[np.int64], out: NDArray[np.uint8]
    ) -> Failures:
        """Decode rows and wait for them."""
        return self._outcome(self._submit(index, key, out), index, key, out)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Started:
    """A step under way."""

    step: Step
    images: Tensor
    job: Job
