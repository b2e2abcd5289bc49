"""Batches made by other processes, none of which can be lost without a word.

torch's DataLoader starts the processes and keeps their results in order. It would also hand the
pixels over, through files in /dev/shm, of which Docker gives a container 64 MB: a batch that finds
no room there is dropped by a thread of the worker, and the main process waits for it for ever. So
the workers write pixels into memory that they share with this process because they were forked
from it, which belongs to no file system; only a few small things take DataLoader's way.

Workers are forked on Linux (where Python would choose another way from 3.14 on). Forking is safe
here, since workers use Pillow, NumPy and torch's CPU ops in one thread, no CUDA and no OpenMP; it
starts in milliseconds where a fresh process imports torch for seconds, it does not copy a million
file names to each worker, and it does not ask the user's script for a `__main__` guard.
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

from fastimae.loaders.errors import DataError
from fastimae.loaders.limits import for_data_loader
from fastimae.loaders.processes import heed_the_parent_alone, signals_held_back, why_not_started
from fastimae.log import log
from fastimae.machine import usable_cores

_START_METHOD = "fork" if sys.platform == "linux" else None
"""See above. None: as Python likes."""
AHEAD = 2
"""Batches that each worker has made or is making, at most."""
LOOK_SECONDS = 5.0
"""So often it is seen whether the workers still live."""
PATIENCE_LOOKS = 120
"""So many in a row without a batch from any worker are an error. Looks are counted, not seconds:
a job that its scheduler suspends for an hour comes back to one long look."""


def check_workers(num_workers: int) -> None:
    """Raise DataError where there is no room for the locks of so many processes, and say where
    they outnumber the cores: to be called before anything is computed."""
    # DataLoader's queues have three each, and its one event has five.
    needed = 3 * (num_workers + 1) + 5 if num_workers else 0
    with _start_errors(num_workers):
        _ = [multiprocessing.Lock() for _ in range(needed)]
    if num_workers > (cores := usable_cores()):
        log.info("--num_workers %d, with %d core(s) to use: more processes than cores load no "
                 "faster", num_workers, cores)  # fmt: skip


class Made(NamedTuple):
    """What became of a step."""

    pixels: Tensor
    """The caller's to keep; pinned if that was asked for."""
    rest: Any
    """What `work` returned."""


def made_by_workers(
    work: Callable[[Any, NDArray], Any],
    steps: Iterable[Any],
    *,
    shape: tuple[int, ...],
    dtype: DTypeLike,
    num_workers: int,
    pin: bool = False,
) -> Generator[Made, None, None]:
    """Yield what `work(step, pixels)` makes of each step, in order.

    Args:
        work: fills `pixels`, which has `shape` and `dtype`, and returns something small that can
            be pickled; what it raises is raised here.
        num_workers: processes; 0: this one.

    Raises:
        DataError: workers cannot be started, one of them has died, or none makes a batch.
    """
    slots = _shared_slots(num_workers, shape, np.dtype(dtype))
    batches = _start(_Work(work, slots, shape, dtype), enumerate(steps), num_workers)
    try:
        for slot in itertools.cycle(slots or [None]):
            made = _next(batches, num_workers)
            if made is None:
                return
            own, rest = made
            pixels = torch.from_numpy(slot if own is None else own)
            if pin:
                pixels = pixels.pin_memory()
            elif own is None:  # the slot is written again once the next batch is asked for
                pixels = pixels.clone()
            yield Made(pixels, rest)
    finally:
        # By name, not by dropping it: the traceback of an error would keep it alive.
        if num_workers:
            _end(batches)


class _Work(Dataset[Any]):
    """What runs in a worker: one item is one step."""

    def __init__(
        self,
        work: Callable[[Any, NDArray], Any],
        slots: list[NDArray],
        shape: tuple[int, ...],
        dtype: DTypeLike,
    ) -> None:
        self.work, self.slots, self.shape, self.dtype = work, slots, shape, dtype

    def __getitems__(self, numbered: tuple[int, Any]) -> tuple[NDArray | None, Any]:
        """The pixels, unless they are in a slot, and the rest. torch takes `numbered` for a list
        of indices."""
        number, step = numbered
        if self.slots:
            return None, self.work(step, self.slots[number % len(self.slots)])
        pixels = np.empty(self.shape, self.dtype)
        return pixels, self.work(step, pixels)


def _shared_slots(num_workers: int, shape: tuple[int, ...], dtype: np.dtype) -> list[NDArray]:
    """Memory for batches, shared with all processes forked from now on: one more than DataLoader
    has under way. None without workers, or where they are not forked and pixels are pickled."""
    if not num_workers or _START_METHOD != "fork":
        return []
    count, size = AHEAD * num_workers + 1, math.prod(shape) * dtype.itemsize
    try:
        memory = mmap.mmap(-1, count * size)
    except OSError as error:
        raise DataError(
            f"no memory for {count} batches of {size / 1e6:.0f} MB ({error.strerror}): try fewer "
            "--num_workers, or a smaller --batch_size"
        ) from error
    return [np.ndarray(shape, dtype, memory, at * size) for at in range(count)]


def _start(work: _Work, steps: Iterable[tuple[int, Any]], num_workers: int) -> Iterator[Any]:
    """DataLoader's iterator, its workers at work."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create")  # see `check_workers`
        return _started(work, steps, num_workers)


def _started(work: _Work, steps: Iterable[tuple[int, Any]], num_workers: int) -> Iterator[Any]:
    loader = DataLoader(
        work,
        batch_sampler=steps,
        collate_fn=_unchanged,
        num_workers=num_workers,
        prefetch_factor=AHEAD if num_workers else None,
        timeout=LOOK_SECONDS if num_workers else 0,
        multiprocessing_context=_START_METHOD if num_workers else None,
        worker_init_fn=functools.partial(_prepare_worker, for_data_loader()),
        # One of our own: drawing from the default one would disturb the training run.
        generator=torch.Generator(),
    )
    if not num_workers:
        return iter(loader)
    with _start_errors(num_workers), signals_held_back():
        batches = iter(loader)
    # torch would raise the death of a worker wherever the main thread happens to be.
    torch.utils.data._utils.signal_handling._remove_worker_pids(id(batches))
    batches._worker_pids_set = False
    return batches


@contextlib.contextmanager
def _start_errors(num_workers: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"--num_workers {num_workers}: {why_not_started(error)}, or --num_workers 0"
        ) from error


def _prepare_worker(set_limit: Callable[[int], None], worker: int) -> None:
    heed_the_parent_alone()
    set_limit(worker)
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(_give_up)


def _give_up(error: Exception, _: object) -> None:
    """A result cannot be sent: the main process, which would wait for it, sees this one's end."""
    traceback.print_exception(error)
    os._exit(1)


def _next(batches: Iterator[Any], num_workers: int) -> tuple[NDArray | None, Any] | None:
    """The next result, None at the end; DataError if a worker has died, or all seem stuck."""
    for _ in range(PATIENCE_LOOKS):
        try:
            return next(batches, None)
        except (RuntimeError, OSError, EOFError) as error:
            # "Caught": torch passes on an error that a worker raised. A dead one shows as others,
            # depending on what it was doing.
            if num_workers == 0 or str(error).startswith("Caught"):
                raise
            if not str(error).startswith("DataLoader timed out"):
                reason = " ".join(f"{type(error).__name__}: {error}".split())
                raise DataError(
                    f"a loading process died, try fewer --num_workers ({reason})"
                ) from error
    raise DataError(
        f"no batch for {PATIENCE_LOOKS * LOOK_SECONDS:g} s: the loading processes are stuck, or "
        "reading is slower than that; try other --num_workers, or --num_workers 0"
    )


def _end(batches: Iterator[Any]) -> None:
    """Stop the workers, those that do not listen, too."""
    batches._shutdown_workers()
    for worker in batches._workers:
        worker.kill()


def _unchanged(result: Any) -> Any:
    return result
