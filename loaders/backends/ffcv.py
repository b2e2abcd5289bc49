"""A `.beton` file decoded by the ffcv library (`--decoder ffcv`), for users' own operations.

The library decodes and resizes JPEGs, compiled by its pipeline. Order, windows, flips and labels
are ours, so a run is reproducible and uses the same crops as with the other back ends. Pixels
differ: the library decodes with the fast inverse DCT and resizes with OpenCV's INTER_AREA instead
of antialiased bicubic (about 1.8 of 255 from Pillow on average). Operations that draw random
numbers are not reproducible: numba has a generator for each thread, and nothing seeds them.

Only the library's pipeline is used, not its loop. It runs in a thread of ours, so that an error or
a hang reaches the caller instead of stopping the loop forever, and no batch's memory is used
again.

Samples are checked by `BetonReader.problem` before the library gets them, as for every other back
end. JPEGs that decoders read differently count as bad here: for those without tables of their own,
for example, the library would use the tables of the image before.

Two faults cannot be noticed: an operation that never releases Python's lock stops the whole
process, and numba loses errors of functions called inside a parallel loop (with
`num_workers` below 2 there are no such loops).
"""

from __future__ import annotations

import atexit
import contextlib
import functools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, wait
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from fastimae.loaders.backends.ffcv_operations import DECODING, NOT_STARTED
from fastimae.loaders.backends.ffcv_pipeline import DaemonWorker, Pipeline, PipelineRun
from fastimae.loaders.base import DecodedStep
from fastimae.loaders.beton.loader import BetonLoader
from fastimae.loaders.beton.reader import BetonReader
from fastimae.loaders.errors import DataError
from fastimae.loaders.images.crops import Crops
from fastimae.loaders.images.decode import Failures, all_copies, replacement_rows
from fastimae.loaders.images.jpeg import read_jpeg_info
from fastimae.loaders.images.limits import max_pixels, too_many
from fastimae.loaders.order.sampler import BatchPlan, Sampler
from fastimae.loaders.workers.read_ahead import start_ahead, thread_pool
from fastimae.log import log
from fastimae.wording import in_one_line

if TYPE_CHECKING:
    from ffcv.pipeline.operation import Operation

BATCHES_AHEAD = 2
"""Batches that are made while the caller uses the current one."""
TIMEOUT = 300.0
"""Seconds that a batch may take, apart from compiling."""
GRACE_SECONDS = 1.0
"""Added when time is up, in case this process was itself suspended for a while."""
REFUSED = "the ffcv library cannot decode it: damaged, or in an unsupported colour space"


class FFCVLoader(BetonLoader):
    """A loader with `num_workers` numba threads, at least one, and a thread that feeds them.

    `num_workers` more threads check samples for damage when they are first used. The first batch of
    each loader waits 5 to 30 seconds for the compiler, in every process. Raises `DataError` if the
    library is missing or asked for gray images, and if a batch fails or hangs; the error names the
    samples.
    """

    def __init__(
        self,
        reader: BetonReader,
        sampler: Sampler,
        crops: Crops,
        *,
        operations: Sequence[Operation] = (),
        timeout: float = TIMEOUT,
        **settings: Any,
    ) -> None:
        """operations: take the crops, uint8 [B, H, W, 3], and return such an array or CPU tensor.
        Rows of bad samples are black at first; then all rows run again, with replacements.
        timeout: seconds that a batch may take, apart from compiling."""
        super().__init__(reader, sampler, crops, **settings)
        if crops.channels != 3:
            raise DataError(f"--decoder ffcv reads RGB only, not --in_chans {crops.channels}")
        self._known_to_fit = ~reader.is_jpeg
        self._too_large = reader.heights * reader.widths > max_pixels()
        largest = int((reader.heights * reader.widths)[~self._too_large].max(initial=1))
        self._make_pipeline = lambda size: Pipeline(
            reader.path,
            reader.image_field,
            size,
            largest,
            sampler.batch_size,
            self.num_workers,
            operations,
            timeout,
        )
        self._pipeline = self._make_pipeline(crops.size)
        self._flag = "--ffcv_ops" if operations else "--decoder ffcv"
        self._hang = ""

    def _change_size(self, size: tuple[int, int]) -> None:
        super()._change_size(size)
        self._pipeline = self._make_pipeline(size)  # the next batch waits for the compiler

    def _decode_steps(self, steps: Iterable[BatchPlan]) -> Iterator[DecodedStep]:
        ahead = BATCHES_AHEAD if self.num_workers else 0
        with thread_pool(self.num_workers) as readers, self._start_worker() as worker:
            start = functools.partial(worker.submit, self._decode, readers)
            for decoded in start_ahead(start, steps, ahead):
                self._wait(decoded)
                yield decoded.result()

    @contextlib.contextmanager
    def _start_worker(self) -> Iterator[DaemonWorker]:
        """Start a thread, which is joined on leaving unless it hangs."""
        if self._hang:
            raise DataError(self._hang)
        worker = DaemonWorker()
        # Python does not wait for a daemon thread at exit, but numba's code must not be unloaded
        # while the thread runs.
        atexit.register(self._iteration.stop)
        try:
            yield worker
        finally:
            atexit.unregister(self._iteration.stop)
            idle = worker.stop()
            if not self._hang:
                try:
                    self._wait(idle)
                    worker.join()
                except DataError as hang:
                    log.warning("%s", hang)

    def _wait(self, work: Future[Any]) -> None:
        """Wait until `work` is done. Raises `DataError` if the pipeline hangs."""
        while not work.done():
            run = self._pipeline.run
            left = self._pipeline.seconds_left(run)
            wait([work], max(left, GRACE_SECONDS))
            if left <= 0 and run is self._pipeline.run and not work.done():
                self._hang = self._describe_hang(run)
                raise DataError(self._hang)

    def _describe_hang(self, run: PipelineRun) -> str:
        rows = run.status == DECODING
        decoding = rows.any() or (run.status == NOT_STARTED).any()
        names = self._names(run.index[rows] if rows.any() else run.index)
        what = "decoding" if decoding else "the operations on"
        return f"{self._flag} hangs: {what} {names} took over {self._pipeline.limit:g} s"

    def _names(self, index: NDArray[np.int64]) -> str:
        if len(index) == 1:
            return self.sample_name(int(index[0]))
        return f"samples {', '.join(map(str, index.tolist()))} of {self.reader.path}"

    def _decode(self, readers: Executor, step: BatchPlan) -> DecodedStep:
        count = len(step.index)
        images = torch.empty((count, *self.crops.shape), dtype=torch.uint8, pin_memory=self.pin)
        out = images.numpy()
        reasons = readers.map(self._obstacle, step.index.tolist())
        failures = {row: reason for row, reason in enumerate(reasons) if reason is not None}
        failures = all_copies(step.index, self._fill(step.index, step.key, out, failures))
        decoded = step.index[replacement_rows(count, failures)]
        if (decoded != step.index).any():
            self._fill(decoded, step.key, out, {})
        bad = {int(step.index[row]): reason for row, reason in failures.items()}
        return DecodedStep(images=images, index=decoded, bad=bad)

    def _obstacle(self, index: int) -> str | None:
        """Return why the library must not get a sample, or None."""
        if self._too_large[index]:
            return too_many(int(self.reader.heights[index] * self.reader.widths[index]))
        problem = self.reader.problem(index)
        if problem is None and not self._fits(index):
            return (
                "not a JPEG that every decoder reads alike: --decoder native or pillow reads it, "
                "or names its damage"
            )
        return problem

    def _fits(self, index: int) -> bool:
        """Return whether a sample is raw pixels, or a plain JPEG of the size in the file's table.

        The library allocates by the table. Bytes after a JPEG's end marker do no harm here.
        """
        if not self._known_to_fit[index]:
            info = read_jpeg_info(self.reader.read(index))
            size = self.reader.heights[index], self.reader.widths[index]
            fits = info and info.is_plain and (info.height, info.width) == size
            self._known_to_fit[index] = fits
        return bool(self._known_to_fit[index])

    def _fill(
        self,
        index: NDArray[np.int64],
        key: NDArray[np.int64],
        out: NDArray[np.uint8],
        failures: Failures,
    ) -> Failures:
        """Write crops of the samples to `out`, uint8 [B, H, W, C]; black where they failed.

        failures: rows that have failed already. Returns them and the rows that the library refuses.
        """
        heights, widths = self.reader.heights[index], self.reader.widths[index]
        windows, flip = self.crops.draw(key, heights, widths)
        windows[list(failures)] = 0
        run = PipelineRun(index=index, windows=np.column_stack([windows, flip]).astype(np.int64))
        try:
            self._pipeline(run, out)
        except DataError:
            raise
        except Exception as error:
            raise self._name_culprit(error, run) from error
        refused = dict.fromkeys(np.flatnonzero(run.status).tolist(), REFUSED)
        return refused | failures

    def _name_culprit(self, error: Exception, run: PipelineRun) -> DataError:
        """Return an error that names the first sample that fails equally alone, or else all."""
        from numba.core.errors import NumbaError

        if isinstance(error, NumbaError):
            return DataError(f"{self._flag}: numba cannot compile it: {in_one_line(error)}")
        out = np.empty((1, *self.crops.shape), dtype=np.uint8)
        for row in range(len(run.index)):
            try:
                self._pipeline(run.row(row), out)
            except Exception as alone:
                if type(alone) is type(error):
                    name = self._names(run.index[row : row + 1])
                    return DataError(f"{self._flag} failed at {name}: {in_one_line(alone)}")
        return DataError(f"{self._flag} failed at {self._names(run.index)}: {in_one_line(error)}")
