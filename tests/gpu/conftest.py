"""What the tests on a GPU share."""

import pytest
import torch


@pytest.fixture
def no_sync():
    """Any operation that makes the host wait raises."""
    torch.zeros(1, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")
