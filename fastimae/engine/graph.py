"""CUDA graphs: record a function's work on the GPU, and clean up if that fails."""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

_failed: list[torch.cuda.CUDAGraph] = []
"""Kept alive: torch 2.11 still asks a graph whose capture failed which pinned memory it owns."""
_recorded: weakref.WeakSet[torch.cuda.CUDAGraph] = weakref.WeakSet()
_shared: list[torch.cuda.MemPool] = []
"""The memory of all graphs that are being recorded inside `sharing_memory`, once one is."""
_share = False


def record_cuda_graph(function: Callable[[], Tensor | None]) -> Callable[[], Tensor | None]:
    """Return a function that repeats `function`'s work on the GPU, into the same result tensor.

    Other threads may use CUDA meanwhile, but must not synchronize the whole device: that fails the
    recording, whatever the mode. Raises what `function` raises, and RuntimeError. After an error,
    the current stream, torch's allocator and its random numbers are as before.
    """
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    pool = _shared[0] if _shared else torch.cuda.MemPool()  # our own: it counts its users
    if _share and not _shared:
        _shared.append(pool)
    users = pool.use_count()
    try:
        with (
            _undisturbed(),
            torch.cuda.graph(graph, pool=pool.id, capture_error_mode="thread_local"),
        ):
            result = function()
    except BaseException:
        torch.cuda.set_stream(stream)  # torch does not reset it if ending the capture fails
        _release(graph, pool, users)
        raise
    _recorded.add(graph)

    def replay() -> Tensor | None:
        graph.replay()
        return result

    return replay


@contextlib.contextmanager
def sharing_memory() -> Iterator[None]:
    """Let the graphs recorded in the block use the same memory, as much as the largest one needs.

    Each may then overwrite what another one has computed, but not its result; nor may two run at
    the same time.
    """
    global _share
    _share = True
    try:
        yield
    finally:
        _share = False
        _shared.clear()


def forget_graphs() -> None:
    """Destroy all recorded graphs; none can be replayed afterwards.

    NCCL does not destroy a process group while graphs with its operations exist.
    """
    for graph in list(_recorded):
        graph.reset()
    _recorded.clear()


def causes(error: BaseException) -> list[BaseException]:
    """Return the errors that led to `error`, the earliest first, and `error` itself."""
    chain = [error]
    while (before := chain[-1].__cause__ or chain[-1].__context__) and before not in chain:
        chain.append(before)
    return chain[::-1]


def describe_chain(error: BaseException) -> str:
    """Describe an error and its causes in a line, the root cause first."""
    lines = [(type(each).__name__, str(each).partition("\n")[0]) for each in causes(error)]
    return " -> ".join(f"{kind}: {line}" for kind, line in lines)


def drop_tracebacks(error: BaseException) -> None:
    """Free the memory that an error and its causes hold: the local variables of their functions."""
    for each in causes(error):
        each.__traceback__ = None


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Turn off Python's garbage collector, and clear cuBLAS's workspaces before and after.

    The collector may destroy an older graph, which ends a capture in torch 2.11. cuBLAS keeps a
    workspace for each stream, which would hold memory of the graph's pool.
    """
    collecting = gc.isenabled()
    gc.disable()
    torch._C._cuda_clearCublasWorkspaces()
    try:
        yield
    finally:
        torch._C._cuda_clearCublasWorkspaces()
        if collecting:
            gc.enable()


def _release(graph: torch.cuda.CUDAGraph, pool: torch.cuda.MemPool, users: int) -> None:
    """Undo what a failed capture leaves behind, which depends on torch's version and the failure.

    users: of the pool before it. While torch believes that a pool is recorded to, it can neither
    free memory nor wait for events.
    """
    device = torch.cuda.current_device()
    graph.reset()
    with contextlib.suppress(RuntimeError):  # torch has done so itself
        torch._C._cuda_endAllocateToPool(device, pool.id)
    if pool.use_count() > users:
        torch._C._cuda_releasePool(device, pool.id)
    _failed.append(graph)
    generator = torch.cuda.default_generators[device]  # it may believe that it is recorded
    generator.graphsafe_set_state(generator.clone_state())
