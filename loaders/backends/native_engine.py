"""The compiled decode engine (csrc/engine.h): its threads and their jobs, as Python objects."""

from __future__ import annotations

import ctypes
import os
import weakref

import numpy as np
from numpy.typing import NDArray

from fastimae.loaders.beton.reader import BetonReader
from fastimae.loaders.errors import DataError
from fastimae.loaders.images.crops import Crops
from fastimae.loaders.images.limits import max_pixels
from fastimae.loaders.native_library import (
    OK,
    NativeLibrary,
    address,
    load,
    problem_text,
    why_missing,
)

_STAGES = ("read", "entropy", "pixels", "resize")
_POLL_MS = 100
"""Longest time that a Ctrl-C waits."""


class _Columns(ctypes.Structure):
    """FastimaeColumns of csrc/api.h."""

    _fields_ = (
        ("file", ctypes.c_void_p),
        ("count", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("positions", "sizes", "heights", "widths")),
        *((name, ctypes.c_void_p) for name in ("is_jpeg", "trailer_positions", "trailer_sizes")),
        *((name, ctypes.c_int32) for name in ("raw_channels", "raw_value_bytes")),
    )


class _Rows(ctypes.Structure):
    """FastimaeRows of csrc/api.h."""

    _fields_ = (
        ("count", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("samples", "windows", "flips", "out")),
        *((name, ctypes.c_void_p) for name in ("status", "problems")),
    )


class Engine:
    """Decodes samples of `reader` with `threads` threads (0: the calling one) until it is closed.

    Only the process that made it can use it: threads do not survive a fork.

    Raises:
        DataError: the engine was not built, or cannot start so many threads.
    """

    def __init__(self, reader: BetonReader, crops: Crops, threads: int) -> None:
        library = load()
        if library is None:
            raise DataError(f"--decoder native: {why_missing()}")
        self._library, self._pid = library, os.getpid()
        self._arrays = reader.columns()
        columns = _Columns(
            count=len(reader),
            raw_channels=reader.form.channels,
            raw_value_bytes=reader.form.dtype.itemsize,
            **{name: address(array) for name, array in self._arrays.items()},
        )
        self._handle = library.engine_new(
            ctypes.byref(columns), *crops.shape, max_pixels(), threads
        )
        if not self._handle:
            raise DataError(f"--num_workers {threads}: too little memory, or too many threads")
        self._jobs: set[Job] = set()
        # Runs at the interpreter's exit, too, before the memory that threads write to is freed.
        self._end = weakref.finalize(self, _end, library, self._handle, self._jobs, self._pid)

    def submit(
        self,
        samples: NDArray[np.int64],
        windows: NDArray[np.int64],
        flips: NDArray[np.bool_],
        out: NDArray[np.uint8 | np.uint16],
    ) -> Job:
        """Start to fill `out`, [B, H, W, C] of the file's type, with crops drawn by `Crops.draw`.

        samples: int64 [B], all in the file. Without threads the work is done on return.
        """
        self._check_alive()
        return Job(self._library, self._handle, self._jobs, samples, windows, flips, out)

    def stage_times(self) -> dict[str, float]:
        """Return the seconds of each stage, summed over threads, and the number of "images"."""
        self._check_alive()
        times = np.zeros(len(_STAGES) + 1, np.uint64)
        self._library.stage_times(self._handle, address(times))
        seconds = (times[:-1] / 1e9).tolist()
        return {**dict(zip(_STAGES, seconds, strict=True)), "images": int(times[-1])}

    def close(self) -> None:
        """Cancel the jobs, end the threads and release the file. May be called twice."""
        self._end()
        self._arrays.clear()

    def _check_alive(self) -> None:
        if not self._end.alive:
            raise ValueError("this loader is closed")
        if os.getpid() != self._pid:
            raise RuntimeError("a native loader does not survive a fork: make one in each process")


class Job:
    """One batch that the engine works on. It keeps the batch's memory until `close`."""

    def __init__(
        self,
        library: NativeLibrary,
        engine: int,
        jobs: set[Job],
        samples: NDArray[np.int64],
        windows: NDArray[np.int64],
        flips: NDArray[np.bool_],
        out: NDArray[np.uint8 | np.uint16],
    ) -> None:
        self._library, self._engine, self._jobs = library, engine, jobs
        self._status = np.empty(len(samples), np.int32)
        self._problems = library.problem_buffer(len(samples))
        self._arrays = {
            "samples": np.ascontiguousarray(samples, np.int64),
            "windows": np.ascontiguousarray(windows, np.int32),
            "flips": np.ascontiguousarray(flips, np.uint8),
            "out": out,
            "status": self._status,
            "problems": self._problems,
        }
        addresses = {name: address(array) for name, array in self._arrays.items()}
        rows = _Rows(count=len(samples), **addresses)
        self._handle = library.submit(engine, ctypes.byref(rows))
        if not self._handle:
            raise MemoryError("not enough memory for one more batch: make --batch_size smaller")
        jobs.add(self)

    def wait(self) -> dict[int, tuple[int, str]]:
        """Wait until all is done; return row -> (status, problem) of each row that failed."""
        while not self._library.wait(self._engine, self._handle, _POLL_MS):
            pass  # Python handles signals between two calls
        rows = np.flatnonzero(self._status != OK).tolist()
        return {row: (int(self._status[row]), problem_text(self._problems[row])) for row in rows}

    def close(self) -> None:
        """Drop rows that have not begun, and wait for the rest. May be called twice."""
        if self._handle:
            self._library.job_free(self._engine, self._handle)
            self._handle = None
        self._jobs.discard(self)


def _end(library: NativeLibrary, engine: int, jobs: set[Job], pid: int) -> None:
    """Cancel the jobs and end the threads."""
    if os.getpid() != pid:  # a forked child has the memory, but not the threads
        return
    for job in list(jobs):
        job.close()
    library.engine_free(engine)
