"""These tests run kernels in Triton's interpreter. On a GPU tests/gpu does."""

import pytest

from fastimae.kernels import _launch


@pytest.fixture(autouse=True)
def _interpreter():
    if not _launch.interpreted():
        pytest.skip("there is a GPU: TRITON_INTERPRET=1 runs the kernels of this folder without it")
