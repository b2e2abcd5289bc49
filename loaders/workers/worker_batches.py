"""Batches made in worker processes: none gets lost, and a dead or stuck worker is an error.

torch's DataLoader starts the processes and keeps their results in order. It would also transfer
the pixels, through files in /dev/shm. But Docker gives a container only 64 MB of that: if a batch
does not fit, a thread of the worker drops it, and the main process waits for it forever. So the
workers write pixels into memory that they share with this process because they were forked from
it; that memory belongs to no file system. DataLoader only transfers a few small values.

Workers are forked on Linux (Python's default is another from 3.14 on). Forking is safe here, since
workers use Pillow, NumPy and torch's CPU ops in one thread, no CUDA and no OpenMP. It takes
milliseconds, while a fresh process imports torch for seconds; it does not copy a million file
names to each worker; and the user's script needs no `__main__` guard.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import mmap
import multiprocessing
import multiprocessing.queues
import os
import pickle
import sys
import traceback
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.utils.data._utils.signal_handling
from numpy.typing import DTypeLike, NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fastimae.cpus import usable_cores
from fastimae.loaders.errors import DataError
from fastimae.loaders.images.limits import limits_for_workers
from fastimae.loaders.workers.processes import (
    obey_parent_only,
    signals_blocked,
    start_error_reason,
)
from fastimae.log import log
from fastimae.wording import in_one_line

_START_METHOD = "fork" if sys.platform == "linux" else None
"""Why fork: see the docstring of this file. None: Python's default."""
BATCHES_AHEAD = 2
"""Most batches that each worker has made or is making."""
POLL_SECONDS = 5.0
"""Time between two checks that the workers are alive."""
MAX_POLLS = 120
"""Checks in a row without a batch from any worker that are an error. Checks are counted, not
seconds, because a job that its scheduler suspends for an hour sees that as one long check."""


def check_workers(num_workers: int) -> None:
    """Raise DataError if there is no room for the locks of so many processes; log if they outnumber
    the cores. To be called before anything is computed."""
    # DataLoader's queues have three locks each, and its one event has five.
    needed = 3 * (num_workers + 1) + 5 if num_workers else 0
    with _start_errors(num_workers):
        _ = [multiprocessing.Lock() for _ in range(needed)]
    if num_workers > (cores := usable_cores()):
        log.info("--num_workers %d, with %d core(s) to use: more processes than cores load no "
                 "faster", num_workers, cores)  # fmt: skip


class WorkerBatch(NamedTuple):
    """The result of one step."""

    pixels: Tensor
    """The caller's to keep; pinned if that was asked for."""
    rest: Any
    """The value that `work` returned."""


def batches_from_workers(
    work: Callable[[Any, NDArray], Any],
    steps: Iterable[Any],
    *,
    shape: tuple[int, ...],
    dtype: DTypeLike,
    num_workers: int,
    pin: bool = False,
) -> Generator[WorkerBatch, None, None]:
    """Yield the result of `work(step, pixels)` for each step, in order.

    Args:
        work: fills `pixels`, which has `shape` and `dtype`, and returns something small that can
            be pickled; its exceptions are raised here.
        num_workers: number of processes; 0: work in this one.

    Raises:
        DataError: workers cannot start, one of them has died, or none produces batches any more.
    """
    slots = _shared_slots(num_workers, shape, np.dtype(dtype))
    batches = _start(_WorkerDataset(work, slots, shape, dtype), enumerate(steps), num_workers)
    try:
        for slot in itertools.cycle(slots or [None]):
            result = _next(batches, num_workers)
            if result is None:
                return
            sent, rest = result
            pixels = torch.from_numpy(slot if sent is None else sent)
            if pin:
                pixels = pixels.pin_memory()
            elif sent is None:  # the slot is written again once the next batch is asked for
                pixels = pixels.clone()
            yield WorkerBatch(pixels, rest)
    finally:
        # Explicitly: an error's traceback would keep the iterator, and so the workers, alive.
        if num_workers:
            _end(batches)


class _WorkerDataset(Dataset[Any]):
    """DataLoader's view of the steps: one item is one step, computed in a worker."""

    def __init__(
        self,
        work: Callable[[Any, NDArray], Any],
        slots: list[NDArray],
        shape: tuple[int, ...],
        dtype: DTypeLike,
    ) -> None:
        self.work, self.slots, self.shape, self.dtype = work, slots, shape, dtype

    def __getitems__(self, numbered: tuple[int, Any]) -> tuple[NDArray | None, Any]:
        """Compute one step; return its pixels, None if they are in a shared slot, and the rest.

        numbered: (number, step), which torch takes for a list of indices.
        """
        number, step = numbered
        if self.slots:
            return None, self.work(step, self.slots[number % len(self.slots)])
        pixels = np.empty(self.shape, self.dtype)
        return pixels, self.work(step, pixels)


def _shared_slots(num_workers: int, shape: tuple[int, ...], dtype: np.dtype) -> list[NDArray]:
    """Allocate batches in memory shared with all processes forked from now on.

    There is one more than DataLoader has in progress; none without workers, or if workers are not
    forked, as their pixels are pickled then.
    """
    if not num_workers or _START_METHOD != "fork":
        return []
    count, size = BATCHES_AHEAD * num_workers + 1, math.prod(shape) * dtype.itemsize
    try:
        memory = mmap.mmap(-1, count * size)
    except OSError as error:
        raise DataError(
            f"no memory for {count} batches of {size / 1e6:.0f} MB ({error.strerror}): try fewer "
            "--num_workers, or a smaller --batch_size"
        ) from error
    return [np.ndarray(shape, dtype, memory, at * size) for at in range(count)]


def _start(
    work: _WorkerDataset, steps: Iterable[tuple[int, Any]], num_workers: int
) -> Iterator[Any]:
    """Start the workers; return DataLoader's iterator over their results."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create")  # see `check_workers`
        warnings.filterwarnings("ignore", "Got pickle error")  # see `_pickle_errors`
        return _iterate(work, steps, num_workers)


def _iterate(
    work: _WorkerDataset, steps: Iterable[tuple[int, Any]], num_workers: int
) -> Iterator[Any]:
    loader = DataLoader(
        work,
        batch_sampler=steps,
        collate_fn=_unchanged,
        num_workers=num_workers,
        prefetch_factor=BATCHES_AHEAD if num_workers else None,
        timeout=POLL_SECONDS if num_workers else 0,
        multiprocessing_context=_START_METHOD if num_workers else None,
        worker_init_fn=functools.partial(_prepare_worker, limits_for_workers()),
        # Our own: drawing from the default generator would change the training run.
        generator=torch.Generator(),
    )
    if not num_workers:
        return iter(loader)
    with _start_errors(num_workers), _pickle_errors(), signals_blocked():
        batches = iter(loader)
    # Else torch raises an error for a dead worker wherever the main thread is at that moment.
    torch.utils.data._utils.signal_handling._remove_worker_pids(id(batches))
    batches._worker_pids_set = False
    return batches


@contextlib.contextmanager
def _start_errors(num_workers: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"--num_workers {num_workers}: {start_error_reason(error)}, or --num_workers 0"
        ) from error


@contextlib.contextmanager
def _pickle_errors() -> Iterator[None]:
    """Explain why a user's code cannot be sent to workers that are not forked."""
    try:
        yield
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        if _START_METHOD == "fork":
            raise
        raise DataError(
            f"the dataset cannot be sent to worker processes ({in_one_line(error)}): define its "
            "class and functions at the top level of a module, or --num_workers 0"
        ) from error


def _prepare_worker(set_limit: Callable[[int], None], worker: int) -> None:
    obey_parent_only()
    set_limit(worker)
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(_exit_on_lost_result)


def _exit_on_lost_result(error: Exception, _: object) -> None:
    """End this worker if it cannot send a result: the main process, which waits for the result,
    notices that."""
    traceback.print_exception(error)
    os._exit(1)


def _next(batches: Iterator[Any], num_workers: int) -> tuple[NDArray | None, Any] | None:
    """Return the next result, None at the end. Raises DataError if a worker has died, or if all
    seem stuck."""
    for _ in range(MAX_POLLS):
        try:
            return next(batches, None)
        except (RuntimeError, OSError, EOFError) as error:
            # "Caught": torch passes on an error that a worker raised. A worker's death appears as
            # other errors, depending on what it was doing.
            if num_workers == 0 or str(error).startswith("Caught"):
                raise
            if not str(error).startswith("DataLoader timed out"):
                raise DataError(
                    f"a loading process died, try fewer --num_workers ({in_one_line(error)})"
                ) from error
    raise DataError(
        f"no batch for {MAX_POLLS * POLL_SECONDS:g} s: the loading processes are stuck, or "
        "reading is slower than that; try other --num_workers, or --num_workers 0"
    )


def _end(batches: Iterator[Any]) -> None:
    """Stop the workers, by force if they do not react."""
    batches._shutdown_workers()
    for worker in batches._workers:
        worker.kill()


def _unchanged(result: Any) -> Any:
    return result
