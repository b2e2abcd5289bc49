"""The ffcv library's compiled pipeline, given windows instead of drawing them, one batch a call."""

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

from fastimae.loaders.errors import DataError
from fastimae.loaders.ffcv_operations import (
    NOT_BEGUN,
    WindowDecoder,
    check_operations,
    copy_result,
    library_missing,
    torch_threads_kept,
)
from fastimae.own_code import in_one_line

if TYPE_CHECKING:
    from ffcv.pipeline.operation import Operation

COMPILE_SECONDS = 600.0
"""What the first batch may take longer than others."""

_ONE_BATCH_AT_A_TIME = threading.Lock()
"""Some of numba's threading layers abort the process when two threads run parallel code."""


@dataclasses.dataclass(kw_only=True)
class Run:
    """Rows that go through the pipeline together."""

    index: NDArray[np.int64]
    """int64 [n], the samples."""
    windows: NDArray[np.int64]
    """int64 [n, 5], each (top, left, height, width, mirrored)."""
    status: NDArray[np.int32] = dataclasses.field(init=False)
    """int32 [n], kept up to date by the decoder."""
    began: float = 0.0
    """`time.monotonic()` of the start."""

    def __post_init__(self) -> None:
        self.status = np.full(len(self.index), NOT_BEGUN, dtype=np.int32)

    def row(self, number: int) -> Run:
        """A run of one of the rows."""
        part = slice(number, number + 1)
        return Run(index=self.index[part], windows=self.windows[part])


class Pipeline:
    """Decodes batches of the field `image` of the file `path` and applies `operations`.

    Numba compiles it at the first call, in every process. `DataError` without ffcv.
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
        self.run: Run | None = None
        """What is under way."""
        self.operations, self._timeout, self._compiled = operations, timeout, False
        with torch_threads_kept():
            self._epoch, self._node = _build(
                path, image, size, largest, batch_size, num_workers, operations
            )

    @property
    def limit(self) -> float:
        """Seconds that a run may take at present."""
        return self._timeout + (0 if self._compiled else COMPILE_SECONDS)

    def seconds_left(self, run: Run | None) -> float:
        """How long it will take until `run` has taken too long; None has not started."""
        return self.limit - (time.monotonic() - run.began if run else 0)

    def __call__(self, run: Run, out: NDArray[np.uint8]) -> None:
        """Write the n <= batch_size rows of `run` to `out`, uint8 [n, H, W, 3].

        Rows that cannot be decoded are black. What a stage raises is raised here.
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

    def _run(self, run: Run, out: NDArray[np.uint8]) -> None:
        from numba import set_num_threads

        # In place of the library's ring of buffers: a batch is the caller's to keep.
        memory = out[None], run.status[None], run.windows[None]
        self._epoch.memory_allocations["operation"][self._node] = memory
        set_num_threads(self._epoch.loader.num_workers)
        (result,) = self._epoch.run_pipeline(0, run.index.astype(np.uint64), 0, None)
        self._compiled = True
        if self.operations:
            copy_result(result, out)


class Worker:
    """A thread that does what it is given, in order.

    A daemon: unlike a pool's threads, one that hangs does not keep the process from exiting.
    """

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]
        self._queue = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="fastimae-loader", daemon=True)
        self._thread.start()

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """The result of `function(*arguments)`, soon."""
        future: Future[Any] = Future()
        self._queue.put((future, functools.partial(function, *arguments)))
        return future

    def stop(self) -> Future[None]:
        """Drop work not begun and end the thread; the result is there when it is idle."""
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
            # While it waits for more: a future that failed refers to itself.
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
    """An ffcv epoch whose `run_pipeline` decodes, and the number of its decoder's node."""
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
            # Not used, but without it NumPy's global generator is.
            seed=0,
            # One buffer for each operation: the library adds two.
            batches_ahead=-1,
        )
        # An epoch of no batches: its own thread ends at once, and its pipeline is left to us.
        epoch = EpochIterator(library, [])
    except Exception as error:
        if not operations:
            raise
        raise DataError(f"--ffcv_ops: ffcv refuses the operations: {in_one_line(error)}") from error
    epoch.join()
    return epoch, next(iter(library.graph.root_nodes)).id


def _stages(graph: Any) -> list[list[int]]:
    """Nodes of a chain in groups, by turns jitted and not. The library's own function never ends
    where a jitted operation follows one that is not."""
    stages: list[list[int]] = [[]]
    nodes = list(graph.root_nodes)
    while nodes:
        (node,) = nodes
        if node.is_jitted != len(stages) % 2:
            stages.append([])
        stages[-1].append(graph.node_to_id[node])
        nodes = graph.adjacency_list[node]
    return stages
