"""An attentive probe: a learned query attends to the tokens of a frozen encoder.

As El-Nouby et al. (2024, "Scalable pre-training of large autoregressive image models") define it,
after Chen et al. (2024, "Context autoencoder"): tokens pass a batch norm without affine part; keys
and values are linear in them, without biases; in each head one learned vector is the query; what
the heads gather is classified by one linear layer. There is neither a projection after the heads
nor an MLP, which other probes of that name have (V-JEPA's). Ours: the class tokens are among the
tokens.

B = batch, T = tokens, D = encoder width, M = heads, K = classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastimae.evaluate.labels.probe_layer import NORM_EPS, linear_layer

QUERY_STD = 0.02
"""Of a fresh query: attention is almost even at first."""


class TokenNorm(nn.BatchNorm1d):
    """A batch norm over the tokens of all images, [B, T, D], without affine part."""

    def __init__(self, width: int) -> None:
        super().__init__(width, affine=False, eps=NORM_EPS)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Return the tokens with mean 0 and deviation 1 in each dimension."""
        return super().forward(x_BTD.flatten(0, 1)).view_as(x_BTD)


class AttentivePooling(nn.Module):
    """Tokens [B, T, D] -> a vector per image [B, D], by the attention of one query in each head."""

    def __init__(self, width: int, heads: int) -> None:
        """heads: a divisor of the width. Raises ValueError otherwise."""
        super().__init__()
        if width % heads:
            raise ValueError(f"--probe_heads {heads} does not divide the encoder's width {width}")
        self.heads = heads
        self.query = nn.Parameter(QUERY_STD * torch.randn(width))
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        for linear in (self.key, self.value):
            nn.init.xavier_uniform_(linear.weight)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Return what the heads gather, next to each other, [B, D]."""
        batch, tokens, width = x_BTD.shape
        shape = self.heads, width // self.heads
        query = self.query.view(1, shape[0], 1, shape[1]).expand(batch, -1, -1, -1)
        key, value = (
            linear(x_BTD).view(batch, tokens, *shape).transpose(1, 2)
            for linear in (self.key, self.value)
        )
        return F.scaled_dot_product_attention(query, key, value).reshape(batch, width)


def attentive_probe(width: int, heads: int, classes: int, seed: int) -> nn.Sequential:
    """Return a fresh probe: tokens float [B, T, D] -> logits [B, K]. Raises ValueError.

    width: D. heads: of the attention, a divisor of it. classes: K. seed: of the weights.
    """
    torch.manual_seed(seed)
    return nn.Sequential(
        TokenNorm(width), AttentivePooling(width, heads), linear_layer(width, classes)
    )
