"""Kernels run in Triton's interpreter here, and on a GPU in tests/gpu."""

import pytest

from fastimae.kernels import _launch


@pytest.fixture(autouse=True)
def _interpreter():
    if not _launch.interpreted():
        pytest.skip("there is a GPU: TRITON_INTERPRET=1 runs the kernels of this folder without it")
