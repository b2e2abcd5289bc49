"""A `.beton` file decoded by the ffcv library (`--decoder ffcv`), for users' own operations.

JPEG decoding and resizing are the library's, compiled by its pipeline. Order, windows, flips and
labels are ours, so a run is reproducible and shows what the other back ends show, but for the
decoder: the library decodes with the fast inverse DCT and resizes with OpenCV's INTER_AREA
instead of antialiased bicubic (about 1.8 of 255 away from Pillow in the mean). Random numbers
inside an operation are the operation's own: nobody seeds numba's generators, one a thread.

Of the library's own loop only the pipeline is used, in a thread of ours: an error or a hang
reaches the caller instead of stopping the loop for ever, and each batch has memory of its own.

Samples are judged before the library gets them, as for every other back end, by
`BetonReader.problem`. Nor does it get JPEGs that not every decoder reads alike, as those without
tables of their own: it would take those of the image before. They count as bad here.

Two things cannot be noticed: an operation that never lets go of Python's lock stops the whole
process, and numba loses errors of functions called inside a parallel loop (with
`num_workers` below 2 there are none).
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

from fastimae.loaders.base import Shown
from fastimae.loaders.beton import BetonReader
from fastimae.loaders.beton_loader import BetonLoader
from fastimae.loaders.crops import Crops
from fastimae.loaders.decode import Failures, all_copies, stand_ins
from fastimae.loaders.errors import DataError
from fastimae.loaders.ffcv_operations import NOT_BEGUN, UNDER_WAY
from fastimae.loaders.ffcv_pipeline import Pipeline, Run, Worker
from fastimae.loaders.jpeg import read_jpeg_info
from fastimae.loaders.limits import max_pixels, too_many
from fastimae.loaders.read_ahead import started_ahead, threads
from fastimae.loaders.sampler import Sampler, Step
from fastimae.log import log
from fastimae.own_code import in_one_line

if TYPE_CHECKING:
    from ffcv.pipeline.operation import Operation

BATCHES_AHEAD = 2
TIMEOUT = 300.0
GRACE_SECONDS = 1.0
"""Added when time is up, for a process that was itself stopped for a while."""
REFUSED = "the ffcv library cannot decode it: damaged, or of colours that it does not know"


class FFCVLoader(BetonLoader):
    """A loader with `num_workers` numba threads, at least one, and one that gives them work; as
    many look for damage in samples that are used for the first time.

    The first batch of each loader waits 5 to 30 seconds for the compiler, in every process.
    `DataError` if the library is missing or asked for gray images, and where a batch fails or
    hangs; it names the samples.
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
        """operations: run on the crops, uint8 [n, H, W, 3], and give such an array or CPU tensor;
        rows of bad samples are black at first, then all rows run again with their stand-ins;
        timeout: seconds that a batch may take, the compiler aside."""
        super().__init__(reader, sampler, crops, **settings)
        if crops.channels != 3:
            raise DataError(f"--decoder ffcv shows RGB only, not --in_chans {crops.channels}")
        self._fit = ~reader.is_jpeg
        self._too_large = reader.heights * reader.widths > max_pixels()
        largest = int((reader.heights * reader.widths)[~self._too_large].max(initial=1))
        self._pipeline = Pipeline(
            reader.path,
            reader.image_field,
            crops.size,
            largest,
            sampler.batch_size,
            self.num_workers,
            operations,
            timeout,
        )
        self._flag = "--ffcv_ops" if operations else "--decoder ffcv"
        self._hang = ""

    def _show(self, steps: Iterable[Step]) -> Iterator[Shown]:
        ahead = BATCHES_AHEAD if self.num_workers else 0
        with threads(self.num_workers) as readers, self._worker() as worker:
            start = functools.partial(worker.submit, self._decode, readers)
            for decoded in started_ahead(start, steps, ahead):
                self._wait(decoded)
                yield decoded.result()

    @contextlib.contextmanager
    def _worker(self) -> Iterator[Worker]:
        """A thread, joined on leaving unless it hangs."""
        if self._hang:
            raise DataError(self._hang)
        worker = Worker()
        # Python does not wait for such a thread, but while it runs numba's code must stay.
        atexit.register(self._running.stop)
        try:
            yield worker
        finally:
            atexit.unregister(self._running.stop)
            idle = worker.stop()
            if not self._hang:
                try:
                    self._wait(idle)
                    worker.join()
                except DataError as hang:
                    log.warning("%s", hang)

    def _wait(self, work: Future[Any]) -> None:
        """Wait until `work` is done. `DataError` if the pipeline hangs."""
        while not work.done():
            run = self._pipeline.run
            left = self._pipeline.seconds_left(run)
            wait([work], max(left, GRACE_SECONDS))
            if left <= 0 and run is self._pipeline.run and not work.done():
                self._hang = self._describe(run)
                raise DataError(self._hang)

    def _describe(self, run: Run) -> str:
        rows = run.status == UNDER_WAY
        decoding = rows.any() or (run.status == NOT_BEGUN).any()
        names = self._names(run.index[rows] if rows.any() else run.index)
        what = "decoding" if decoding else "the operations on"
        return f"{self._flag} hangs: {what} {names} took over {self._pipeline.limit:g} s"

    def _names(self, index: NDArray[np.int64]) -> str:
        if len(index) == 1:
            return self.sample_name(int(index[0]))
        return f"samples {', '.join(map(str, index.tolist()))} of {self.reader.path}"

    def _decode(self, readers: Executor, step: Step) -> Shown:
        count = len(step.index)
        images = torch.empty((count, *self.crops.shape), dtype=torch.uint8, pin_memory=self.pin)
        out = images.numpy()
        reasons = readers.map(self._why_not, step.index.tolist())
        failures = {row: reason for row, reason in enumerate(reasons) if reason is not None}
        failures = all_copies(step.index, self._fill(step.index, step.key, out, failures))
        shown = step.index[stand_ins(count, failures)]
        if (shown != step.index).any():
            self._fill(shown, step.key, out, {})
        bad = {int(step.index[row]): reason for row, reason in failures.items()}
        return Shown(images=images, index=shown, bad=bad)

    def _why_not(self, index: int) -> str | None:
        """Why the library does not get a sample, or None."""
        if self._too_large[index]:
            return too_many(int(self.reader.heights[index] * self.reader.widths[index]))
        problem = self.reader.problem(index)
        if problem is None and not self._fits(index):
            return (
                "not a JPEG that every decoder reads alike: --decoder native, or pillow, shows it "
                "or says what is wrong with it"
            )
        return problem

    def _fits(self, index: int) -> bool:
        """Whether a sample is pixels, or a plain JPEG as large as the file's table says; bytes
        behind its end marker do no harm here. The library makes room by the table."""
        if not self._fit[index]:
            info = read_jpeg_info(self.reader.read(index))
            size = self.reader.heights[index], self.reader.widths[index]
            self._fit[index] = info and info.is_plain and (info.height, info.width) == size
        return bool(self._fit[index])

    def _fill(
        self,
        index: NDArray[np.int64],
        key: NDArray[np.int64],
        out: NDArray[np.uint8],
        failures: Failures,
    ) -> Failures:
        """Write crops of the samples to `out`; black where they are in `failures`, to which those
        that the library refuses are added."""
        heights, widths = self.reader.heights[index], self.reader.widths[index]
        windows, flip = self.crops.draw(key, heights, widths)
        windows[list(failures)] = 0
        run = Run(index=index, windows=np.column_stack([windows, flip]).astype(np.int64))
        try:
            self._pipeline(run, out)
        except DataError:
            raise
        except Exception as error:
            raise self._blamed(error, run) from error
        refused = dict.fromkeys(np.flatnonzero(run.status).tolist(), REFUSED)
        return refused | failures

    def _blamed(self, error: Exception, run: Run) -> DataError:
        """The error that names the first sample that fails like this on its own, or all."""
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
