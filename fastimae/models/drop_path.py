"""Stochastic depth (Huang et al., 2016): samples skip some attentions and MLPs in training.

B = batch, N = tokens, D = width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastimae.kernels.random_masking import philox

DROP_PATH_STREAM = 9
"""Philox stream of dropped paths: see `fastimae.loaders.order.philox.DrawStream`."""


def path_factors(key: Tensor, rate: float, depth: int) -> Tensor:
    """Draw what the change by each attention and MLP is multiplied by, fp32 [depth, 2, B].

    key: int64 [B]; a sample's factors are a function of its key alone. Block i of `depth` drops
    each of its two changes with probability rate * i / (depth - 1), as in timm: 0 in the first
    block, rate in the last. A factor is 0, or 1 / (1 - probability), so that its mean is 1.
    """
    numbers = torch.arange((depth + 1) // 2, device=key.device)  # a Philox block has four words
    words = philox(key[:, None], numbers[None], DROP_PATH_STREAM)
    uniform_Bd2 = torch.stack(words, dim=-1).flatten(1)[:, : 2 * depth].unflatten(1, (depth, 2))
    dropped_d11 = torch.linspace(0, rate, depth, device=key.device)[:, None, None]
    kept = uniform_Bd2.permute(1, 2, 0) * 2.0**-32 >= dropped_d11
    return kept / (1 - dropped_d11)


def scaled(change: Tensor, factor: Tensor) -> Tensor:
    """Multiply the change of each sample, [B, ..., D], by its factor, fp32 [B], in fp32 or more."""
    return (change * factor.view(-1, *[1] * (change.ndim - 1))).to(change.dtype)
