"""NVIDIA DALI (`--dali`): decoding and resizing on the GPU, or on the CPU where there is none.

Order, windows and flips are ours, so a run uses the same crops as with any other back end. Pixels
differ by the rounding of DALI's resize (about 0.2 of 255 from Pillow on average) and, on a GPU, of
its decoder. EXIF rotation is not applied, as in torchvision.

DALI drops a whole batch when it refuses one file, so it gets intact JPEGs only. Pillow handles all
other images, or reports what is wrong with them: other formats, CMYK, files cut short or with a
wrong checksum, windows of a few columns, and whatever else DALI refuses.

Dimensions: B images in a batch, n of them in one part of it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Executor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastimae.loaders.backends.dali_pipeline import DEPTH, DaliPipeline, DecodeRequest
from fastimae.loaders.backends.dali_source import BetonJpegs, Jpeg, JpegSource
from fastimae.loaders.base import DecodedStep, Loader
from fastimae.loaders.beton.reader import BetonReader
from fastimae.loaders.errors import DataError
from fastimae.loaders.images.crops import Crops
from fastimae.loaders.images.decode import decode_replacements, decode_rows
from fastimae.loaders.order.sampler import BatchPlan, Sampler
from fastimae.loaders.workers.merge_rows import merge_rows
from fastimae.loaders.workers.read_ahead import start_ahead, thread_pool
from fastimae.log import log

BATCHES_AHEAD = 1
"""Finished batches that wait for the caller; DALI works on `DEPTH` more."""
MAX_READERS = 8
"""Most threads that read files; on slow disks one waits while another reads."""
MIN_COLUMNS = 4
"""Narrower windows go to Pillow. DALI's chroma upsampling treats the sides of a window as those of
the image, which is visible in windows of fewer columns."""
MAX_REFUSALS = 3
"""Batches in a row of which DALI may refuse every image, before that is an error."""


class DaliLoader(Loader):
    """Decodes crops of the samples of `source`, which it closes.

    DALI has `num_workers` threads of its own, at least one. With 0 workers the calling thread feeds
    it, else one more thread does.
    """

    def __init__(
        self,
        source: JpegSource,
        sampler: Sampler,
        crops: Crops,
        *,
        device: torch.device | str,
        num_workers: int,
        max_bad_samples: int,
        pin_mem: bool,
        **pipeline_settings: Any,
    ) -> None:
        """device: where batches are decoded, and stay; pipeline_settings: see `DaliPipeline`."""
        super().__init__(sampler, crops.shape, max_bad_samples=max_bad_samples, pin_mem=pin_mem)
        self.source, self.crops, self.num_workers = source, crops, num_workers
        self.device = torch.device(device)
        on_gpu = self.device.type == "cuda"
        self._pipeline = DaliPipeline(
            crops,
            batch_size=sampler.batch_size,
            num_threads=max(1, num_workers),
            device_id=(self.device.index or 0) if on_gpu else None,
            **pipeline_settings,
        )
        self._refusals = 0

    @classmethod
    def of_beton(
        cls, reader: BetonReader, sampler: Sampler, crops: Crops, **settings: Any
    ) -> DaliLoader:
        """Make a loader of a `.beton` file; settings: those of the constructor."""
        return cls(BetonJpegs(reader), sampler, crops, **settings)

    def sample_name(self, index: int) -> str:
        return self.source.name(index)

    def _change_size(self, size: tuple[int, int]) -> None:
        super()._change_size(size)
        self.crops = self._pipeline.crops = dataclasses.replace(self.crops, size=size)
        self._pipeline.rebuild()

    def close(self) -> None:
        super().close()
        self._pipeline.close()
        self.source.close()

    def _decode_steps(self, steps: Iterable[BatchPlan]) -> Iterator[DecodedStep]:
        ahead = BATCHES_AHEAD if self.num_workers else 0
        # Exited in reverse order: the worker ends before the generator that it runs is closed.
        with (
            thread_pool(min(MAX_READERS, self.num_workers)) as readers,
            contextlib.closing(self._decode_parts(steps, readers)) as batches,
            thread_pool(min(1, self.num_workers)) as worker,
        ):
            started = start_ahead(
                lambda _: worker.submit(next, batches, None), itertools.repeat(None), ahead
            )
            while (parts := next(started).result()) is not None:
                yield self._to_torch(parts)

    def _decode_parts(
        self, steps: Iterable[BatchPlan], readers: Executor
    ) -> Generator[_DecodedParts, None, None]:
        self._pipeline.restore()
        in_flight: deque[_FedStep] = deque()
        try:
            for step in steps:
                in_flight.append(self._start(step, readers))
                if len(in_flight) > DEPTH:
                    yield self._finish(in_flight)
            while in_flight:
                yield self._finish(in_flight)
        finally:
            self._discard(in_flight)

    def _start(self, step: BatchPlan, readers: Executor) -> _FedStep:
        """Feed DALI those images of a step that it can decode."""
        parts = np.array_split(step.index, max(1, min(MAX_READERS, self.num_workers)))
        read = [jpeg for part in readers.map(self._read, parts) for jpeg in part]
        rows = np.flatnonzero([jpeg is not None for jpeg in read])
        jpegs = [read[row] for row in rows.tolist()]
        sizes = np.array([(jpeg.height, jpeg.width) for jpeg in jpegs]).reshape(-1, 2)
        windows, flips = self.crops.draw(step.key[rows], sizes[:, 0], sizes[:, 1])
        request = DecodeRequest(
            jpegs=jpegs, windows=windows.astype(np.int32), flips=flips.astype(np.int32)
        )
        wide = np.flatnonzero(windows[:, 3] >= MIN_COLUMNS)
        fed = _FedStep(step=step, rows=rows[wide], request=request.part(wide))
        self._feed(fed)
        return fed

    def _read(self, index: NDArray[np.int64]) -> list[Jpeg | None]:
        return [self.source.jpeg(i) for i in index.tolist()]

    def _feed(self, fed: _FedStep) -> None:
        if len(fed.rows):
            self._pipeline.feed(fed.request)

    def _finish(self, in_flight: deque[_FedStep]) -> _DecodedParts:
        """Return the oldest step in flight, with the rows that Pillow decodes."""
        fed = in_flight[0]
        images, rows = None, fed.rows
        if len(rows):
            try:
                images = self._pipeline.take()
            except Exception:
                images, rows = self._retry_without_refused(fed)
                for other in itertools.islice(in_flight, 1, None):
                    self._feed(other)
        del in_flight[0]
        return self._with_pillow(fed.step, rows, images)

    def _retry_without_refused(self, fed: _FedStep) -> tuple[Any, NDArray[np.int64]]:
        """Decode a batch again without the images that DALI refuses, after an error that lost all
        batches in flight; none is in flight afterwards. Return images and rows.

        Raises `DataError` if DALI refuses all of several batches in a row.
        """
        refused = self._pipeline.find_refused(fed.request)
        for row, reason in refused.items():
            name = self.sample_name(int(fed.step.index[fed.rows[row]]))
            log.debug("DALI refuses %s, which goes to Pillow: %s", name, reason)
        good = np.setdiff1d(np.arange(len(fed.rows)), list(refused))
        self._refusals = 0 if len(good) else self._refusals + 1
        if self._refusals == MAX_REFUSALS:
            raise DataError(f"--dali: DALI refuses batch after batch: {reason}")
        if not len(good):
            return None, fed.rows[:0]
        self._pipeline.feed(fed.request.part(good))
        return self._pipeline.take(), fed.rows[good]

    def _with_pillow(self, step: BatchPlan, rows: NDArray[np.int64], images: Any) -> _DecodedParts:
        """Add the rows that are not in `rows`, and replacements of bad samples."""
        index = step.index
        host_rows = np.setdiff1d(np.arange(len(index)), rows)
        pixels = np.empty((len(host_rows), *self.crops.shape), np.uint8)
        decode = functools.partial(decode_rows, self.source.open, self.crops)
        failed = decode(index[host_rows], step.key[host_rows], pixels)
        failures = {int(host_rows[i]): reason for i, reason in failed.items()}
        decoded, replaced, others = decode_replacements(
            decode, self.crops, index, step.key, failures
        )
        kept = np.isin(host_rows, replaced, invert=True)
        return _DecodedParts(
            index=decoded,
            bad={int(index[row]): reason for row, reason in failures.items()},
            rows=rows,
            images=images,
            host_rows=np.concatenate([host_rows[kept], replaced]),
            host_pixels=np.concatenate([pixels[kept], others]),
        )

    def _discard(self, in_flight: deque[_FedStep]) -> None:
        """Wait for batches that are no longer wanted; their errors are dropped too."""
        with contextlib.suppress(Exception):
            for fed in in_flight:
                if len(fed.rows):
                    self._pipeline.take()

    def _to_torch(self, parts: _DecodedParts) -> DecodedStep:
        """Return the images as a tensor: DALI's memory itself, unless Pillow decoded some."""
        images = None
        if parts.images is not None:
            # DALI has finished this batch. When torch releases the memory, DALI keeps it until the
            # GPU has done all work given to it by then, on any stream: `~DLTensorResource` of
            # DALI's dltensor.h hands it to a thread that waits for the device. DALI's own plugin
            # for torch relies on that, too; `record_stream` has no effect on memory that torch has
            # not allocated.
            images = torch.from_dlpack(parts.images.as_tensor())
        if images is None or len(parts.host_rows):
            images = self._merge(parts, images)
        return DecodedStep(images=images, index=parts.index, bad=parts.bad)

    def _merge(self, parts: _DecodedParts, images: Tensor | None) -> Tensor:
        pieces = [] if images is None else [(parts.rows, images)]
        pieces.append((parts.host_rows, torch.from_numpy(parts.host_pixels)))
        return merge_rows((len(parts.index), *self.crops.shape), self.device, pieces)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _FedStep:
    """A step, part of which has been fed to DALI."""

    step: BatchPlan
    rows: NDArray[np.int64]
    """int64 [n], the rows that DALI decodes."""
    request: DecodeRequest
    """Everything that DALI needs to decode these rows."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _DecodedParts:
    """A decoded step in two parts: DALI's, and that of Pillow in the host's memory."""

    index: NDArray[np.int64]
    """int64 [B], the samples decoded, as in `DecodedStep`."""
    bad: dict[int, str]
    rows: NDArray[np.int64]
    """int64 [n], the rows that DALI decoded."""
    images: Any
    """DALI's TensorList of `rows`; None if there are none."""
    host_rows: NDArray[np.int64]
    """Rows that Pillow decoded, each once; a row that is also in `rows` replaces a bad sample."""
    host_pixels: NDArray[np.uint8]
    """uint8 [n, H, W, C], the crops of `host_rows`."""
