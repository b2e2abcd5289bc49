"""Kernels run in Triton's interpreter here, and on a GPU in tests/gpu."""

import pytest
import torch

from fastimae.kernels import _launch


@pytest.fixture(autouse=True)
def _interpreter():
    if not _launch.interpreted():
        pytest.skip("there is a GPU: TRITON_INTERPRET=1 runs the kernels of this folder without it")


@pytest.fixture(autouse=True)
def _fresh_memory_is_nan():
    """Let torch fill new tensors with NaN, so that an output which is not written shows."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
