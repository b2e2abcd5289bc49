"""Fixtures of the tests of foreign models."""

import pytest
import torch
from interop.foreign_maes import SIZE


@pytest.fixture
def imgs():
    """Return three normalised images."""
    return torch.randn(3, 3, SIZE, SIZE)
