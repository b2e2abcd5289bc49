"""Fixtures of the tests on a GPU."""

import gc

import pytest
import torch


@pytest.fixture
def no_sync():
    """Raise on any operation that makes the host wait."""
    torch.zeros(1, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.fixture
def pools():
    """Return a function () -> ids of the pools of torch's allocator that hold memory."""

    def now():
        gc.collect()
        torch.cuda.empty_cache()
        return {segment["segment_pool_id"] for segment in torch.cuda.memory_snapshot()}

    return now
