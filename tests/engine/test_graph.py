"""Recording while other threads call CUDA, and what is left where it fails: nothing."""

import gc
import threading

import pytest
import torch
from fake_graphs import VERSIONS, Gpu, failure

from fastimae.engine import graph as module
from fastimae.engine.graph import in_one_line, record_cuda_graph


@pytest.fixture(params=VERSIONS, ids=lambda version: f"torch-{version[0]}.{version[1]}")
def gpu(request, monkeypatch):
    gpu = Gpu(request.param)
    gpu.install(monkeypatch)
    return gpu


def beside(call):
    """Call in another thread, and return what it raised."""
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
    """Not even when the process ends."""
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
    assert any(gpu.holders.values())  # the graph's memory is kept for its replays
    del replay
    assert nothing_is_left(gpu)


def test_a_spoiled_capture_leaves_nothing(gpu):
    """Another thread waits for the device; the error that the user has to see comes first."""

    def work():
        assert beside(gpu.synchronize)
        gpu.launch()

    error = failure(work)
    assert in_one_line(error) == (
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
    assert in_one_line(caught.value) == expected


@pytest.mark.parametrize("fails", [False, True])
def test_neither_the_collector_nor_cublas_has_a_hand_in_it(gpu, monkeypatch, fails):
    """One may destroy an older graph meanwhile, the other keeps memory of the pool."""
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
