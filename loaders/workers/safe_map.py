"""A parallel map that keeps the order and survives work that crashes its process or hangs."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import TypeVar

from fastimae.loaders.workers.processes import obey_parent_only, start_error_reason

T = TypeVar("T")
R = TypeVar("R")
Function = Callable[[T], R]

PATIENCE_SECONDS = 120
"""An item that takes longer counts as a crash."""
CRASHED = f"crashed its process, or took more than {PATIENCE_SECONDS} s"
"""The reason to report for such an item."""
_CHUNKS_PER_WORKER = 3


class WorkersCannotStart(RuntimeError):
    """Worker processes cannot start, whatever the work."""


def safe_map(
    function: Function[T, R],
    items: Iterable[T],
    *,
    workers: int,
    chunk: int,
    crashed: R,
) -> Generator[R, None, None]:
    """Yield `function(item)` for each item, in order, computed in other processes.

    Args:
        function: picklable, or a `partial` of a picklable one; an exception from it ends the map.
        chunk: items sent to a worker at a time. At most three chunks for each worker are in
            progress or waiting, however slowly the results are taken.
        crashed: the result of an item that kills its process or outlasts `PATIENCE_SECONDS`.

    Raises:
        WorkersCannotStart: for example in a script without `if __name__ == "__main__":`, or where
            /dev/shm has no room for the workers' locks.
    """
    remaining = iter(items)
    chunks = iter(lambda: list(islice(remaining, chunk)), [])
    pending: deque[tuple[list[T], Future]] = deque()
    pool = _start_pool(function, workers)
    try:
        while True:
            for batch in islice(chunks, _CHUNKS_PER_WORKER * workers - len(pending)):
                pending.append((batch, _submit(pool, function, batch)))
            if not pending:
                return
            batch, future = pending.popleft()
            try:
                results = future.result()
            except BrokenProcessPool:
                pool.shutdown()
                results = _one_by_one(function, batch, crashed)
                pool = _start_pool(function, workers)
                pending = _resubmit(pool, function, pending)
            yield from results
    finally:
        pool.shutdown(cancel_futures=True)


def _start_pool(function: Function[T, R], workers: int) -> ProcessPoolExecutor:
    # Not fork: this process may have threads, whose locks a forked child inherits locked.
    context = multiprocessing.get_context("forkserver")
    # The fork server imports what the workers need, once for all of them.
    module = getattr(function, "func", function).__module__
    context.set_forkserver_preload(["__main__", module])
    try:
        pool = ProcessPoolExecutor(workers, mp_context=context, initializer=obey_parent_only)
        pool.submit(os.getpid).result()
    except BrokenProcessPool as error:
        raise WorkersCannotStart(
            "worker processes cannot start: a script must call this under "
            '`if __name__ == "__main__":`'
        ) from error
    except OSError as error:
        raise WorkersCannotStart(f"--workers {workers}: {start_error_reason(error)}") from error
    return pool


def _submit(pool: ProcessPoolExecutor, function: Function[T, R], batch: list[T]) -> Future:
    try:
        return pool.submit(_run, function, batch)
    except BrokenProcessPool as error:
        failed: Future = Future()
        failed.set_exception(error)
        return failed


def _resubmit(
    pool: ProcessPoolExecutor, function: Function[T, R], pending: deque[tuple[list[T], Future]]
) -> deque[tuple[list[T], Future]]:
    """Return the same chunks, with those that have no result submitted to the new pool."""
    return deque(
        (batch, future)
        if future.done() and future.exception() is None
        else (batch, _submit(pool, function, batch))
        for batch, future in pending
    )


def _one_by_one(function: Function[T, R], batch: list[T], crashed: R) -> list[R]:
    """Process a chunk again, item by item, after a crash that may be due to another chunk."""
    results = []
    pool = _start_pool(function, 1)
    for item in batch:
        try:
            results += pool.submit(_run, function, [item]).result()
        except BrokenProcessPool:
            results.append(crashed)
            pool.shutdown()
            pool = _start_pool(function, 1)
    pool.shutdown()
    return results


def _run(function: Function[T, R], batch: list[T]) -> list[R]:
    results = []
    for item in batch:
        signal.alarm(PATIENCE_SECONDS)  # has no handler: it ends the process
        results.append(function(item))
    signal.alarm(0)
    return results
