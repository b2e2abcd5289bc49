"""A function's work on the GPU, recorded as a CUDA graph; a failure leaves nothing behind."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

_failed: list[torch.cuda.CUDAGraph] = []
"""torch 2.11 goes on asking a graph whose capture failed which pinned memory is its own."""


def record_cuda_graph(function: Callable[[], Tensor | None]) -> Callable[[], Tensor | None]:
    """A function that runs `function`'s work on the GPU again; what it returned is overwritten.

    Other threads may call CUDA meanwhile, but for waiting for the whole device: then recording
    fails in any mode. Raises what `function` raises and RuntimeError; the current stream, torch's
    allocator and its random numbers are then as before.
    """
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    pool = torch.cuda.MemPool()  # of our own, as it tells who holds it
    try:
        with (
            _undisturbed(),
            torch.cuda.graph(graph, pool=pool.id, capture_error_mode="thread_local"),
        ):
            result = function()
    except BaseException:
        torch.cuda.set_stream(stream)  # torch does not where ending the capture fails
        _release(graph, pool)
        raise

    def replay() -> Tensor | None:
        graph.replay()
        return result

    return replay


def causes(error: BaseException) -> list[BaseException]:
    """The errors that led to `error`, the first one first, and `error` itself."""
    chain = [error]
    while (before := chain[-1].__cause__ or chain[-1].__context__) and before not in chain:
        chain.append(before)
    return chain[::-1]


def in_one_line(error: BaseException) -> str:
    """Kinds and first lines of an error and its causes; the first is what went wrong."""
    lines = [(type(one).__name__, str(one).partition("\n")[0]) for one in causes(error)]
    return " -> ".join(f"{kind}: {line}" for kind, line in lines)


def let_go(error: BaseException) -> None:
    """Free what an error and its causes keep in memory: all that their functions worked on."""
    for one in causes(error):
        one.__traceback__ = None


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Without Python's collector, which may destroy an older graph: torch 2.11 does so in a way
    that ends a capture. And with no memory of the pool in cuBLAS's hands afterwards: it keeps a
    workspace for each stream."""
    collecting = gc.isenabled()
    gc.disable()
    torch._C._cuda_clearCublasWorkspaces()
    try:
        yield
    finally:
        torch._C._cuda_clearCublasWorkspaces()
        if collecting:
            gc.enable()


def _release(graph: torch.cuda.CUDAGraph, pool: torch.cuda.MemPool) -> None:
    """Undo what torch, depending on its version and on what failed, leaves of a capture.

    While a pool counts as being recorded to, torch can neither free memory nor wait for events.
    """
    device = torch.cuda.current_device()
    graph.reset()
    with contextlib.suppress(RuntimeError):  # torch has done so itself
        torch._C._cuda_endAllocateToPool(device, pool.id)
    if pool.use_count() > 1:  # somebody beside `pool`
        torch._C._cuda_releasePool(device, pool.id)
    _failed.append(graph)
    generator = torch.cuda.default_generators[device]  # it may believe that it is being recorded
    generator.graphsafe_set_state(generator.clone_state())
