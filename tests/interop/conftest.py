"""What the tests of foreign models share."""

import pytest
import torch
from interop.foreign_maes import SIZE


@pytest.fixture
def imgs():
    """Three images, normalised."""
    return torch.randn(3, 3, SIZE, SIZE)
