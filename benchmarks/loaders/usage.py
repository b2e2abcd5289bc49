"""CPU time and memory of a process and all its descendants, from Linux's /proc."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

_QUIET_SECONDS, _PATIENCE = 0.05, 3.0
_TICKS = os.sysconf("SC_CLK_TCK")
_OWN_MEMORY = re.compile(r"^Pss_(?:Anon|Shmem): +(\d+) kB$", re.MULTILINE)


def family(pid: int) -> list[int]:
    """List the process and its living descendants."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            found += [int(child) for child in _read(task).split()]
    return found


def cpu_seconds(pid: int) -> float:
    """Sum user and system time of the family so far, including children that have ended."""
    ticks = 0
    for member in family(pid):
        # The name before the last parenthesis may contain blanks. Times are fields 14 to 17.
        fields = _read(Path(f"/proc/{member}/stat")).rpartition(")")[2].split()
        ticks += sum(map(int, fields[11:15]))
    return ticks / _TICKS


def settle(pid: int) -> None:
    """Wait until the family is idle, such as a loader that has filled its queues; at most 3 s."""
    end, before = time.monotonic() + _PATIENCE, -1.0
    while (now := cpu_seconds(pid)) != before and time.monotonic() < end:
        before = now
        time.sleep(_QUIET_SECONDS)


def memory_bytes(pid: int) -> int:
    """Sum the memory that only the family uses: anonymous and shared pages, each counted once.

    Pages of files, such as a mapped .beton, are left out: the kernel can take them back.
    """
    texts = (_read(Path(f"/proc/{member}/smaps_rollup")) for member in family(pid))
    return 1024 * sum(int(kib) for text in texts for kib in _OWN_MEMORY.findall(text))


def _read(path: Path) -> str:
    """Read a file; empty if the process has just ended."""
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
