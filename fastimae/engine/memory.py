"""The peak memory of a run, and keeping freed memory for the next step."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import re
from pathlib import Path

import torch

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h


def peak_memory(device: torch.device) -> int | None:
    """Return the most bytes used so far: on a GPU by this process's tensors, else by this process
    on the host, or None if the system does not say.

    Activations of a step that is recorded as CUDA graphs are in the graphs' own memory. They count
    while the step is recorded, but not when it is replayed: reset torch's peak before recording.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resident("VmHWM")


def reset_memory(device: torch.device) -> None:
    """Free a GPU's cached memory and reset its peak: call before a step is built, see
    `peak_memory`."""
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def resident(field: str) -> int | None:
    """Return this process's bytes in host memory: "VmRSS" now, "VmHWM" peak. None outside Linux."""
    status = Path("/proc/self/status")
    found = re.search(rf"{field}:\s+(\d+) kB", status.read_text() if status.exists() else "")
    return 1024 * int(found[1]) if found else None


def keep_freed_memory() -> None:
    """Make glibc keep freed memory for the next step; without glibc, do nothing.

    Otherwise each step returns gigabytes to the system, which clears them page by page when they
    are allocated again.
    """
    with contextlib.suppress(OSError, AttributeError):
        set_option = ctypes.CDLL("libc.so.6").mallopt
        for option, number in ((_MMAP_THRESHOLD, 32 << 20), (_TRIM_THRESHOLD, 2**31 - 1)):
            set_option(option, number)
