"""Keeps a mapped file in memory as long as it is mapped (`--cache ram`).

The memory is the page cache, so all processes of a machine that map the file share it.
"""

from __future__ import annotations

import ctypes
import os
import resource
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastimae.loaders.errors import DataError
from fastimae.log import log
from fastimae.progress import Meter

CHUNK_BYTES = 64 << 20
"""Bytes that each thread reads at a time; a multiple of the page size."""
THREADS = 4
"""Enough to keep a fast disk busy."""
RESERVE_BYTES = 1 << 30
"""Memory that must stay free for everything else."""
_MEMINFO, _OWN_CGROUP = Path("/proc/meminfo"), Path("/proc/self/cgroup")
_CGROUPS = Path("/sys/fs/cgroup")
_PAGE = 4096
_PROBES = 256
_MADV_POPULATE_READ = 22
_libc = ctypes.CDLL(None, use_errno=True)


def keep_in_memory(path: Path, content: NDArray[np.uint8], *, quiet: bool = False) -> None:
    """Read a mapped file and lock it into memory; if locking is not allowed, log how to allow it.

    path: the file, for messages; content: uint8 [bytes], its mapping.
    quiet: no progress and no advice, for all ranks but one.

    Raises:
        DataError: the file is larger than the available memory.
    """
    if not _is_in_memory(path, content.size):
        _check_room(path, content.size)
    _populate(path, content, quiet)
    if _call(_libc.mlock, content) and not quiet:
        limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
        log.warning(
            "--cache ram: %s is in memory, but may be evicted: this process must not lock more "
            "than %d KiB of it; `ulimit -l unlimited`, or docker's --ulimit memlock=-1, allows it",
            path,
            limit // 1024,
        )


def _check_room(path: Path, size: int) -> None:
    room = available_bytes() - RESERVE_BYTES
    if size > room:
        raise DataError(
            f"--cache ram: {path} has {size / 1e9:.1f} GB, and there is memory for "
            f"{max(0, room) / 1e9:.1f} GB: leave out --cache, or convert to a smaller file "
            "(fastimae-convert --max_resolution, --reencode)"
        )


def available_bytes() -> int:
    """Return how much memory this process can allocate without swapping."""
    lines = dict(line.split(":") for line in _MEMINFO.read_text().splitlines())
    return min([int(lines["MemAvailable"].split()[0]) * 1024, *_cgroup_limits()])


def _cgroup_limits() -> list[int]:
    """Return the memory limits, in bytes, of the cgroups (v2) around this process."""
    groups = [line for line in _OWN_CGROUP.read_text().splitlines() if line.startswith("0::/")]
    folder = _CGROUPS / "".join(groups[:1]).removeprefix("0::/")
    files = [group / "memory.max" for group in (folder, *folder.parents)]
    limits = [file.read_text().strip() for file in files if file.is_file()]
    return [int(limit) for limit in limits if limit != "max"]


def _is_in_memory(path: Path, size: int) -> bool:
    """Return whether all of a file is in the page cache already, judged by a sample of its pages.

    If so, it fits, and its memory must not be asked for again: if another process has locked it,
    it no longer counts as available.
    """
    with path.open("rb", buffering=0) as file:
        try:
            for position in range(0, size, max(1, size // _PROBES)):
                os.preadv(file.fileno(), [bytearray(1)], position, os.RWF_NOWAIT)
        except OSError:  # a page is not cached, or the file system does not support the question
            return False
    return True


def _populate(path: Path, content: NDArray[np.uint8], quiet: bool) -> None:
    """Read the whole file, in large chunks by several threads."""
    chunks = [content[at : at + CHUNK_BYTES] for at in range(0, content.size, CHUNK_BYTES)]
    name = f"{path.name} to memory"
    pool = ThreadPoolExecutor(THREADS, "fastimae-cache")
    try:
        with Meter(content.size, name, "B", quiet=quiet) as meter:
            for size in pool.map(_read, chunks):
                meter.update(size)
    finally:
        pool.shutdown(cancel_futures=True)


def _read(chunk: NDArray[np.uint8]) -> int:
    """Bring a chunk into memory without holding the GIL; return its size in bytes."""
    if _call(_libc.madvise, chunk, _MADV_POPULATE_READ):  # fails before Linux 5.14
        chunk[::_PAGE].max()
    return chunk.size


def _call(function: Callable[..., int], memory: NDArray[np.uint8], *arguments: int) -> int:
    """Call a system function on a range of memory; return its status, 0 for success."""
    return function(ctypes.c_void_p(memory.ctypes.data), ctypes.c_size_t(memory.size), *arguments)
