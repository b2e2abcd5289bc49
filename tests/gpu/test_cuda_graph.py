"""CUDA graph capture while other threads use the GPU, and cleanup after a failed capture."""

import threading

import pytest
import torch
from fake_graphs import failure

from fastimae.engine.draws import seed_draws
from fastimae.engine.graph import describe_chain, record_cuda_graph

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
MIB = 2**20


def test_allocations_of_other_threads_are_harmless():
    """Allocate as a loader does: host and GPU memory that CUDA must provide."""
    x, kept, errors = torch.ones(1000, device="cuda"), [], []

    def allocate():
        try:
            for size in (1, 2, 4, 8):
                kept.append(torch.empty(size * 8 * MIB, dtype=torch.uint8, pin_memory=True))
                kept.append(torch.empty(size * 8 * MIB, dtype=torch.uint8, device="cuda"))
        except RuntimeError as error:
            errors.append(error)

    def work():
        y = x * 2
        thread = threading.Thread(target=allocate)
        thread.start()
        thread.join()
        return y + 1

    replay = record_cuda_graph(work)
    assert not errors and len(kept) == 8
    for value in (1.0, 5.0):
        x.fill_(value)
        assert (replay() == 2 * value + 1).all()


def test_a_replay_draws_what_its_step_was_seeded_with():
    device = torch.device("cuda", torch.cuda.current_device())
    replay = record_cuda_graph(lambda: torch.rand(10, device=device))
    drawn = []
    for key in ((0, 1), (0, 2), (0, 1)):
        seed_draws(device, *key)
        drawn.append(replay().tolist())
    assert drawn[0] == drawn[2] != drawn[1]


def test_a_failed_capture_leaves_nothing(pools):
    stream, before, state = torch.cuda.current_stream(), pools(), torch.cuda.get_rng_state()

    def work():
        large = torch.ones(64 * MIB, device="cuda")
        return large * large.sum().item()  # which no graph can contain

    assert "captur" in describe_chain(failure(work))
    assert torch.cuda.current_stream() == stream and pools() <= before
    assert torch.equal(torch.cuda.get_rng_state(), state)
    assert torch.rand(1000, device="cuda").std() > 0.1
    x = torch.ones(10, device="cuda")
    replay = record_cuda_graph(lambda: x + torch.rand(10, device="cuda"))
    assert not torch.equal(replay().clone(), replay())


def test_an_error_of_the_function_leaves_nothing(pools):
    stream, before = torch.cuda.current_stream(), pools()

    def work():
        torch.ones(64 * MIB, device="cuda").add_(1)
        raise torch.OutOfMemoryError("as if there were none")

    assert isinstance(failure(work), torch.OutOfMemoryError)
    assert torch.cuda.current_stream() == stream and pools() <= before


def test_a_replays_memory_goes_with_it(pools):
    before = pools()
    x = torch.ones(64 * MIB, device="cuda")

    def work():
        return (x + 1).sum()

    replay = record_cuda_graph(work)
    assert replay().item() == 2 * len(x)
    assert len(pools() - before) >= 1
    del replay
    assert pools() <= before | {(0, 0)}
