"""A GPU's peak of operations and of memory, as reported in the log."""

import pytest
import torch

from fastimae.engine.memory import peak_memory
from fastimae.engine.peak import cache_file, peak_rate

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
GPU = torch.device("cuda")
MEGABYTE = 2**20


def test_activations_count_in_a_capture_and_not_in_a_replay():
    """So a peak that is reset after the capture does not include them."""
    value = torch.ones(64 * MEGABYTE // 4, device=GPU)

    def work():
        torch.stack([value] * 4).sum()

    work()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(GPU)
    before, graph = torch.cuda.memory_allocated(GPU), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    assert peak_memory(GPU) - before >= 256 * MEGABYTE
    torch.cuda.reset_peak_memory_stats(GPU)
    graph.replay()
    torch.cuda.synchronize()
    assert peak_memory(GPU) - before < 64 * MEGABYTE


def test_the_peak_is_measured_once_and_leaves_nothing_behind(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    torch.cuda.manual_seed(3)
    before, state = torch.cuda.memory_allocated(GPU), torch.cuda.get_rng_state()
    rate = peak_rate(GPU, "bf16")
    assert 1e12 < rate < 1e17
    assert torch.equal(torch.cuda.get_rng_state(), state)
    assert peak_memory(GPU) - before < 128 * MEGABYTE  # cuBLAS keeps some
    assert cache_file().exists() and peak_rate(GPU, "bf16") == rate
