"""NVIDIA DALI (`--dali`): decoding and resizing on the GPU, or on the CPU where there is none.

Order, windows and flips are ours, so a run shows what it would show with any other back end, but
for the rounding of DALI's resize (about 0.2 of 255 away from Pillow in the mean) and, on a GPU, of
its decoder. EXIF rotation is not applied, as in torchvision.

DALI gives up a whole batch for one file that it does not like, so it gets sound JPEGs only. All
else goes to Pillow, which reads it or says what is wrong with it: other formats, CMYK, files cut
short or with a wrong checksum, windows of a few columns, and what DALI refuses nevertheless.
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

from fastimae.loaders.base import Loader, Shown
from fastimae.loaders.crops import Crops
from fastimae.loaders.dali_pipeline import DEPTH, DaliPipeline, Work, one_line
from fastimae.loaders.decode import decode_rows, decode_stand_ins
from fastimae.loaders.encoded import Encoded, Jpeg
from fastimae.loaders.errors import DataError
from fastimae.loaders.joined import joined
from fastimae.loaders.read_ahead import started_ahead, threads
from fastimae.loaders.sampler import Sampler, Step
from fastimae.log import log

BATCHES_AHEAD = 1
"""Finished batches that wait for the caller; DALI works on `DEPTH` more."""
READERS = 8
"""Threads that read files, at most; on slow disks one waits while another reads."""
NARROWEST = 4
"""Columns of a window that DALI decodes as Pillow does. Its upsampling of colours takes the sides
of a window for those of the image, which shows in narrower ones."""
MAX_REFUSALS = 3
"""Batches in a row of which DALI may refuse every image."""


class DaliLoader(Loader):
    """Shows crops of the samples of `encoded`, which it closes.

    DALI has `num_workers` threads of its own, at least one. With 0 the calling thread hands over
    the work, else one more thread does.
    """

    def __init__(
        self,
        encoded: Encoded,
        sampler: Sampler,
        crops: Crops,
        *,
        device: torch.device | str,
        num_workers: int,
        max_bad_samples: int,
        pin_mem: bool,
        **pipeline_settings: Any,
    ) -> None:
        """device: where batches are decoded, and lie; pipeline_settings: see `DaliPipeline`."""
        super().__init__(sampler, crops.shape, max_bad_samples=max_bad_samples, pin_mem=pin_mem)
        self.encoded, self.crops, self.num_workers = encoded, crops, num_workers
        self.device = torch.device(device)
        on_gpu = self.device.type == "cuda"
        self._pipeline = DaliPipeline(
            crops,
            batch_size=sampler.batch_size,
            num_threads=max(1, num_workers),
            device_id=(self.device.index or 0) if on_gpu else None,
            **pipeline_settings,
        )
        self._refusals, self._reason = 0, ""

    def sample_name(self, index: int) -> str:
        return self.encoded.name(index)

    def close(self) -> None:
        super().close()
        self._pipeline.close()
        self.encoded.close()

    def _show(self, steps: Iterable[Step]) -> Iterator[Shown]:
        ahead = BATCHES_AHEAD if self.num_workers else 0
        # They end in the other order, so that nobody is inside the generator when it is closed.
        with (
            threads(min(READERS, self.num_workers)) as readers,
            contextlib.closing(self._decoded(steps, readers)) as batches,
            threads(min(1, self.num_workers)) as worker,
        ):
            next_one = started_ahead(
                lambda _: worker.submit(next, batches, None), itertools.repeat(None), ahead
            )
            while (decoded := next(next_one).result()) is not None:
                yield self._shown(decoded)

    def _decoded(self, steps: Iterable[Step], readers: Executor) -> Generator[_Decoded, None, None]:
        self._pipeline.restore()
        under_way: deque[_Started] = deque()
        try:
            for step in steps:
                under_way.append(self._start(step, readers))
                if len(under_way) > DEPTH:
                    yield self._finish(under_way)
            while under_way:
                yield self._finish(under_way)
        finally:
            self._give_up(under_way)

    def _start(self, step: Step, readers: Executor) -> _Started:
        """Feed what DALI can read of a step."""
        parts = np.array_split(step.index, max(1, min(READERS, self.num_workers)))
        found = [jpeg for part in readers.map(self._read, parts) for jpeg in part]
        rows = np.flatnonzero([jpeg is not None for jpeg in found])
        jpegs = [found[row] for row in rows.tolist()]
        sizes = np.array([(jpeg.height, jpeg.width) for jpeg in jpegs]).reshape(-1, 2)
        windows, flips = self.crops.draw(step.key[rows], sizes[:, 0], sizes[:, 1])
        work = Work(jpegs=jpegs, windows=windows.astype(np.int32), flips=flips.astype(np.int32))
        wide = np.flatnonzero(windows[:, 3] >= NARROWEST)
        started = _Started(step=step, rows=rows[wide], work=work.part(wide))
        self._feed(started)
        return started

    def _read(self, index: NDArray[np.int64]) -> list[Jpeg | None]:
        return [self.encoded.jpeg(i) for i in index.tolist()]

    def _feed(self, started: _Started) -> None:
        if len(started.rows):
            self._pipeline.feed(started.work)

    def _finish(self, under_way: deque[_Started]) -> _Decoded:
        """The oldest step, with the rows that Pillow reads."""
        started = under_way[0]
        images, rows = None, started.rows
        if len(rows):
            try:
                images = self._pipeline.take()
            except Exception:
                images, rows = self._without_refused(started)
                for other in itertools.islice(under_way, 1, None):
                    self._feed(other)
        del under_way[0]
        return self._with_pillow(started.step, rows, images)

    def _without_refused(self, started: _Started) -> tuple[Any, NDArray[np.int64]]:
        """The batch again, after an error lost all that were under way: without the images that
        DALI refuses, which do not depend on the others. Leaves a pipeline with nothing under way.

        Raises `DataError` if it refuses all of several batches in a row.
        """
        self._pipeline.rebuild()
        good = self._readable(started, np.arange(len(started.rows)))
        self._refusals = 0 if len(good) else self._refusals + 1
        if self._refusals == MAX_REFUSALS:
            raise DataError(f"--dali: DALI refuses batch after batch: {self._reason}")
        if not len(good):
            return None, started.rows[:0]
        self._pipeline.feed(started.work.part(good))
        return self._pipeline.take(), started.rows[good]

    def _readable(self, started: _Started, part: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of `part`, positions in the work of a batch, that DALI reads."""
        try:
            self._pipeline.feed(started.work.part(part))
            self._pipeline.take()
            return part
        except Exception as error:
            self._pipeline.rebuild()
            self._reason = one_line(error)
        if len(part) > 1:
            halves = np.array_split(part, 2)
            return np.concatenate([self._readable(started, half) for half in halves])
        name = self.sample_name(int(started.step.index[started.rows[part[0]]]))
        log.debug("DALI refuses %s, which goes to Pillow: %s", name, self._reason)
        return part[:0]

    def _with_pillow(self, step: Step, rows: NDArray[np.int64], images: Any) -> _Decoded:
        """Add the rows that are not in `rows`, and stand-ins for bad samples."""
        index = step.index
        host_rows = np.setdiff1d(np.arange(len(index)), rows)
        pixels = np.empty((len(host_rows), *self.crops.shape), np.uint8)
        decode = functools.partial(decode_rows, self.encoded.open, self.crops)
        failed = decode(index[host_rows], step.key[host_rows], pixels)
        failures = {int(host_rows[i]): reason for i, reason in failed.items()}
        shown, changed, others = decode_stand_ins(decode, self.crops, index, step.key, failures)
        kept = np.isin(host_rows, changed, invert=True)
        return _Decoded(
            index=shown,
            bad={int(index[row]): reason for row, reason in failures.items()},
            rows=rows,
            images=images,
            host_rows=np.concatenate([host_rows[kept], changed]),
            host_pixels=np.concatenate([pixels[kept], others]),
        )

    def _give_up(self, under_way: deque[_Started]) -> None:
        """Wait for batches that nobody wants any more; an error of theirs is nobody's either."""
        with contextlib.suppress(Exception):
            for started in under_way:
                if len(started.rows):
                    self._pipeline.take()

    def _shown(self, decoded: _Decoded) -> Shown:
        """The images as torch sees them: DALI's memory itself, unless Pillow had to help."""
        images = None
        if decoded.images is not None:
            # DALI has finished it. When torch lets go of the memory, DALI keeps it until all that
            # the GPU was given by then is done, on whatever stream: `~DLTensorResource` of its
            # dltensor.h hands it to a thread that waits for the device. Its own plugin for torch
            # relies on that, too; `record_stream` does nothing for memory that is not torch's.
            images = torch.from_dlpack(decoded.images.as_tensor())
        if images is None or len(decoded.host_rows):
            images = self._joined(decoded, images)
        return Shown(images=images, index=decoded.index, bad=decoded.bad)

    def _joined(self, decoded: _Decoded, images: Tensor | None) -> Tensor:
        parts = [] if images is None else [(decoded.rows, images)]
        parts.append((decoded.host_rows, torch.from_numpy(decoded.host_pixels)))
        return joined((len(decoded.index), *self.crops.shape), self.device, parts)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Started:
    """A step under way."""

    step: Step
    rows: NDArray[np.int64]
    """What DALI decodes of it."""
    work: Work


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Decoded:
    """A step with all its pixels, in two places."""

    index: NDArray[np.int64]
    bad: dict[int, str]
    rows: NDArray[np.int64]
    images: Any
    """DALI's TensorList of `rows`; None if there are none."""
    host_rows: NDArray[np.int64]
    """Rows read by Pillow, each once; where it is also in `rows`, it replaces a bad sample."""
    host_pixels: NDArray[np.uint8]
