"""Recording while other threads use CUDA, and cleaning up if it fails."""

import gc
import threading
import types

import pytest
import torch
from fake_graphs import VERSIONS, Gpu, failure

from fastimae.engine import distributed
from fastimae.engine import graph as module
from fastimae.engine.distributed import World
from fastimae.engine.graph import describe_chain, record_cuda_graph, sharing_memory


@pytest.fixture(params=VERSIONS, ids=lambda version: f"torch-{version[0]}.{version[1]}")
def gpu(request, monkeypatch):
    gpu = Gpu(request.param)
    gpu.install(monkeypatch)
    return gpu


def beside(call):
    """Call a function in another thread; return what it raised."""
    raised = []

    def run():
        try:
            call()
        except RuntimeError as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return raised


def nothing_is_left(gpu):
    """Check that a failure has left nothing, not even for the end of the process."""
    module._failed.clear()
    gc.collect()
    gpu.empty_cache()
    gpu.random.draw()
    return gpu.stream == "main" and not gpu.recorded_to and not any(gpu.holders.values())


def test_another_threads_allocations_do_no_harm(gpu):
    def work():
        assert beside(gpu.malloc) == []
        gpu.launch()
        return "result"

    replay = record_cuda_graph(work)
    assert replay() == "result" and gpu.stream == "main"
    gpu.empty_cache()
    gpu.random.draw()
    assert any(gpu.holders.values())  # the graph's memory stays allocated for replays
    del replay
    assert nothing_is_left(gpu)


def test_graphs_share_memory_only_where_they_may(gpu):
    """It lasts as long as one of them."""
    with sharing_memory():
        one, two = record_cuda_graph(gpu.launch), record_cuda_graph(gpu.launch)
    alone = record_cuda_graph(gpu.launch)
    assert sorted(gpu.holders.values()) == [1, 2]
    del one, alone
    assert sorted(gpu.holders.values()) == [0, 1]
    del two
    assert nothing_is_left(gpu)


def test_a_failure_leaves_the_shared_memory_to_earlier_graphs(gpu):
    def work():
        gpu.synchronize()

    with sharing_memory():
        replay = record_cuda_graph(gpu.launch)
        failure(work)
    module._failed.clear()
    gc.collect()
    assert list(gpu.holders.values()) == [1] and not gpu.recorded_to
    replay()
    del replay
    assert nothing_is_left(gpu)


def test_a_group_of_processes_is_left_without_graphs(gpu, monkeypatch):
    """NCCL waits for existing graphs; one that is already gone needs nothing."""
    alive = []
    monkeypatch.setattr(distributed, "_CLOSED_GROUPS", [])
    monkeypatch.setattr(torch.distributed, "group", types.SimpleNamespace(WORLD="group"))
    monkeypatch.setattr(
        torch.distributed,
        "destroy_process_group",
        lambda: alive.extend(number for number in gpu.holders.values() if number),
    )
    replays = [record_cuda_graph(gpu.launch) for _ in range(3)]
    del replays[0]
    World(0, 2, torch.device("cpu")).close()
    assert alive == [] and nothing_is_left(gpu)
    with pytest.raises(AssertionError):
        replays[0]()


def test_a_spoiled_capture_leaves_nothing(gpu):
    """Another thread synchronizes the device; the root cause comes first in the message."""

    def work():
        assert beside(gpu.synchronize)
        gpu.launch()

    error = failure(work)
    assert describe_chain(error) == (
        "RuntimeError: CUDA error: no kernel can be captured -> "
        "RuntimeError: CUDA error: failed due to a previous error"
    )
    del error
    assert nothing_is_left(gpu)
    record_cuda_graph(gpu.launch)()


def test_an_error_of_the_function_leaves_nothing(gpu):
    def work():
        raise torch.OutOfMemoryError("too large")

    assert isinstance(failure(work), torch.OutOfMemoryError)
    assert nothing_is_left(gpu)


def test_a_capture_that_cannot_begin_leaves_nothing(gpu):
    gpu.refuses = True
    failure(gpu.launch)
    assert nothing_is_left(gpu)


def test_a_chain_of_errors_is_one_line():
    def fail():
        try:
            try:
                raise torch.OutOfMemoryError("CUDA out of memory.\nTry less")
            except RuntimeError as first:
                raise KeyError("middle") from first
        except KeyError:
            raise RuntimeError("") from None

    with pytest.raises(RuntimeError) as caught:
        fail()
    expected = "OutOfMemoryError: CUDA out of memory. -> KeyError: 'middle' -> RuntimeError: "
    assert describe_chain(caught.value) == expected


@pytest.mark.parametrize("fails", [False, True])
def test_neither_the_collector_nor_cublas_has_a_hand_in_it(gpu, monkeypatch, fails):
    """The collector may destroy an older graph meanwhile; cuBLAS keeps memory of the pool."""
    cleared = []
    monkeypatch.setattr(
        torch._C, "_cuda_clearCublasWorkspaces", lambda: cleared.append(gc.isenabled())
    )

    def work():
        assert not gc.isenabled() and len(cleared) == 1
        if fails:
            raise RuntimeError("no memory")

    assert gc.isenabled()
    failure(work) if fails else record_cuda_graph(work)
    assert gc.isenabled() and cleared == [False, False]
