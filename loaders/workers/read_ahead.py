"""Reading ahead: work on the next steps in threads while the caller uses the current one."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")


@contextlib.contextmanager
def thread_pool(count: int) -> Iterator[Executor]:
    """Open a pool of `count` threads; 0: work is done when submitted, in the calling thread.

    On leaving, work that has not begun is dropped, and all threads have ended.
    """
    pool = ThreadPoolExecutor(count, "fastimae-loader") if count else _CallingThread()
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def start_ahead(start: Callable[[T], R], items: Iterable[T], ahead: int) -> Iterator[R]:
    """Yield `start(item)` for each item in order, each when `ahead` more have been started."""
    started: deque[R] = deque()
    for item in items:
        started.append(start(item))
        if len(started) > ahead:
            yield started.popleft()
    while started:
        yield started.popleft()


class _CallingThread(Executor):
    """An executor without threads."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future
