"""What a linear probe trains: batch normalisation without affine part, then a linear layer.

As in MAE, appendix A.1.
"""

from __future__ import annotations

from torch import nn

NORM_EPS = 1e-6


def probe_layer(width: int, classes: int) -> nn.Sequential:
    """Return the layers with torch's initial weights: float [B, width] -> [B, classes]."""
    return nn.Sequential(
        nn.BatchNorm1d(width, affine=False, eps=NORM_EPS), nn.Linear(width, classes)
    )
