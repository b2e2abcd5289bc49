"""How much memory a run takes at most."""

from __future__ import annotations

import gc
import re
from pathlib import Path

import torch


def peak_memory(device: torch.device) -> int | None:
    """Bytes so far at most: of a GPU, by this process's tensors; else of the host, by this process,
    None where the system does not tell.

    Activations of a step that is recorded as CUDA graphs live in the graphs' own memory. They count
    while the step is recorded, and not when it is replayed: whoever resets torch's peak has to do
    so before the recording.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resident("VmHWM")


def forget_memory(device: torch.device) -> None:
    """Let go of what earlier work used of a GPU, and forget how much it was: for before a step is
    built (see `peak_memory`)."""
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def resident(field: str) -> int | None:
    """Bytes of this process in the host's memory: VmRSS now, VmHWM at most. None outside Linux."""
    status = Path("/proc/self/status")
    found = re.search(rf"{field}:\s+(\d+) kB", status.read_text() if status.exists() else "")
    return 1024 * int(found[1]) if found else None
