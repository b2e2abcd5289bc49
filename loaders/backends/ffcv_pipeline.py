"""The ffcv library's compiled pipeline: one call decodes one batch, with windows that we draw.

Dimensions: n rows in a run, H height, W width.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastimae.loaders.backends.ffcv_operations import (
    NOT_STARTED,
    WindowDecoder,
    check_operations,
    copy_result,
    library_missing,
    torch_threads_kept,
)
from fastimae.loaders.errors import DataError
from fastimae.wording import in_one_line

if TYPE_CHECKING:
    from ffcv.pipeline.operation import Operation

COMPILE_SECONDS = 600.0
"""Seconds that the first batch may take longer than others."""

_ONE_BATCH_AT_A_TIME = threading.Lock()
"""Some of numba's threading layers abort the process when two threads run parallel code."""


@dataclasses.dataclass(kw_only=True)
class PipelineRun:
    """The rows that go through the pipeline in one call, and their progress."""

    index: NDArray[np.int64]
    """int64 [n], the samples."""
    windows: NDArray[np.int64]
    """int64 [n, 5], each (top, left, height, width, mirrored)."""
    status: NDArray[np.int32] = dataclasses.field(init=False)
    """int32 [n], kept up to date by the decoder."""
    began: float = 0.0
    """`time.monotonic()` of the start."""

    def __post_init__(self) -> None:
        self.status = np.full(len(self.index), NOT_STARTED, dtype=np.int32)

    def row(self, number: int) -> PipelineRun:
        """Return a run of one of the rows."""
        part = slice(number, number + 1)
        return PipelineRun(index=self.index[part], windows=self.windows[part])


class Pipeline:
    """Decodes batches of the field `image` of the file `path`, and applies `operations`.

    Numba compiles it at the first call, in every process. Raises `DataError` without ffcv.
    """

    def __init__(
        self,
        path: Path,
        image: str,
        size: tuple[int, int],
        largest: int,
        batch_size: int,
        num_workers: int,
        operations: Sequence[Operation],
        timeout: float,
    ) -> None:
        """size: (height, width) of the result; largest: pixels of the largest image decoded;
        timeout: seconds that a run may take."""
        self.run: PipelineRun | None = None
        """The run in progress."""
        self.operations, self._timeout, self._compiled = operations, timeout, False
        with torch_threads_kept():
            self._epoch, self._node = _build(
                path, image, size, largest, batch_size, num_workers, operations
            )

    @property
    def limit(self) -> float:
        """Seconds that a run may take at present."""
        return self._timeout + (0 if self._compiled else COMPILE_SECONDS)

    def seconds_left(self, run: PipelineRun | None) -> float:
        """Return the seconds until `run` times out (None: a run that has not started)."""
        return self.limit - (time.monotonic() - run.began if run else 0)

    def __call__(self, run: PipelineRun, out: NDArray[np.uint8]) -> None:
        """Write the n <= batch_size rows of `run` to `out`, uint8 [n, H, W, 3].

        Rows that cannot be decoded are black. Errors of operations are raised here.
        """
        if not _ONE_BATCH_AT_A_TIME.acquire(timeout=self._timeout + COMPILE_SECONDS):
            raise DataError("--decoder ffcv: another loader of this process hangs")
        try:
            run.began = time.monotonic()
            self.run = run
            self._run(run, out)
        finally:
            self.run = None
            _ONE_BATCH_AT_A_TIME.release()

    def _run(self, run: PipelineRun, out: NDArray[np.uint8]) -> None:
        from numba import set_num_threads

        # In place of the library's ring of buffers: a batch is the caller's to keep.
        memory = out[None], run.status[None], run.windows[None]
        self._epoch.memory_allocations["operation"][self._node] = memory
        set_num_threads(self._epoch.loader.num_workers)
        (result,) = self._epoch.run_pipeline(0, run.index.astype(np.uint64), 0, None)
        self._compiled = True
        if self.operations:
            copy_result(result, out)


class DaemonWorker:
    """A thread that does the work submitted to it, in order.

    It is a daemon: unlike a pool's threads, it does not keep the process from exiting if it hangs.
    """

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]
        self._queue = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="fastimae-loader", daemon=True)
        self._thread.start()

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Queue `function(*arguments)`, and return its future result."""
        future: Future[Any] = Future()
        self._queue.put((future, functools.partial(function, *arguments)))
        return future

    def stop(self) -> Future[None]:
        """Drop work that has not begun, and end the thread; the future is done once it is idle."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._queue.get_nowait()
        idle = self.submit(lambda: None)
        self._queue.put(None)
        return idle

    def join(self) -> None:
        """Wait for the end of the thread."""
        self._thread.join()

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            future, work = item
            try:
                future.set_result(work())
            except BaseException as error:
                future.set_exception(error)
            # Hold no result while waiting for more work: a failed future refers to itself, so it
            # would stay in memory.
            del item, future, work


def _build(
    path: Path,
    image: str,
    size: tuple[int, int],
    largest: int,
    batch_size: int,
    num_workers: int,
    operations: Sequence[Operation],
) -> tuple[Any, int]:
    """Return an ffcv epoch, whose `run_pipeline` decodes, and the number of its decoder's node."""
    try:
        import numba
        from ffcv.loader import Loader
        from ffcv.loader.epoch_iterator import EpochIterator
        from ffcv.pipeline import PipelineSpec
        from ffcv.reader import Reader
    except (ImportError, OSError) as error:
        raise library_missing(error) from error
    check_operations(operations)
    pipelines: dict[str, Any] = dict.fromkeys(Reader(str(path)).handlers)
    pipelines[image] = PipelineSpec(
        image, decoder=WindowDecoder(size, largest), transforms=list(operations)
    )

    class Library(Loader):
        def generate_code(self) -> None:
            self.graph.group_operations = functools.partial(_stages, self.graph)
            super().generate_code()

    try:
        library = Library(
            str(path),
            batch_size=batch_size,
            num_workers=min(max(1, num_workers), numba.config.NUMBA_NUM_THREADS),
            pipelines=pipelines,
            # Not used, but without a seed the library draws one from NumPy's global generator.
            seed=0,
            # The library adds two, which makes one buffer for each operation.
            batches_ahead=-1,
        )
        # An epoch without batches: its thread ends at once, and leaves the pipeline to us.
        epoch = EpochIterator(library, [])
    except Exception as error:
        if not operations:
            raise
        raise DataError(f"--ffcv_ops: ffcv refuses the operations: {in_one_line(error)}") from error
    epoch.join()
    return epoch, next(iter(library.graph.root_nodes)).id


def _stages(graph: Any) -> list[list[int]]:
    """Group the nodes of a chain into stages, alternately jitted and not.

    The library's own function never ends if a jitted operation follows one that is not jitted.
    """
    stages: list[list[int]] = [[]]
    nodes = list(graph.root_nodes)
    while nodes:
        (node,) = nodes
        if node.is_jitted != len(stages) % 2:
            stages.append([])
        stages[-1].append(graph.node_to_id[node])
        nodes = graph.adjacency_list[node]
    return stages
