"""What a linear probe trains: batch normalisation without affine part, then a linear layer.

As in MAE, appendix A.1. D = feature width, K = classes.
"""

from __future__ import annotations

from torch import nn

NORM_EPS = 1e-6


def probe_layer(width: int, classes: int) -> nn.Sequential:
    """Return a fresh probe: float [B, D] -> [B, K]. width: D. classes: K."""
    return nn.Sequential(
        nn.BatchNorm1d(width, affine=False, eps=NORM_EPS), linear_layer(width, classes)
    )


def linear_layer(width: int, classes: int) -> nn.Linear:
    """Return the fresh last layer of a probe: float [B, D] -> [B, K]. width: D. classes: K."""
    layer = nn.Linear(width, classes)
    nn.init.trunc_normal_(layer.weight, std=0.01)
    nn.init.zeros_(layer.bias)
    return layer
