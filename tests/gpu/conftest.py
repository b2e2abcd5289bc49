"""What the tests on a GPU share."""

import gc

import pytest
import torch


@pytest.fixture
def no_sync():
    """Any operation that makes the host wait raises."""
    torch.zeros(1, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.fixture
def pools():
    """Function () -> ids of those pools of torch's allocator that have memory."""

    def now():
        gc.collect()
        torch.cuda.empty_cache()
        return {segment["segment_pool_id"] for segment in torch.cuda.memory_snapshot()}

    return now
