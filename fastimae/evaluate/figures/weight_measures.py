"""Measures of weights: how they are distributed, and how sparse they are.

The i-MAE paper's second version (figure 5, left) calls i-MAE's weights "sparser" than MAE's and
shows two distributions, without a measure. Those here are ours. Three do not change if all weights
are multiplied by a number, and are larger for sparser weights: kurtosis, the share of near-zero
weights, and Hoyer's sparsity.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from fastimae.models import MaskedAutoencoder

KINDS = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
NEAR_ZERO = 0.1
"""A weight is near zero if it is at most this share of the root mean square of the weights that it
is measured with. Of normally distributed weights, 8 % are."""
SPARSITY = ("near_zero", "hoyer", "kurtosis")
"""The measures that do not depend on the scale."""
_BLOCK = re.compile(r"^(?P<part>blocks|decoder_blocks)\.(?P<layer>\d+)\.(?P<kind>.+)\.weight$")
_AT_ONCE = 2**24
"""Weights that are converted to float64 at once."""


def matrices_of(model: MaskedAutoencoder) -> dict[str, Tensor]:
    """Return the weight matrices by name.

    Position tables and tokens are left out, and a decoder that the file lacks: it is random.
    """
    return {
        name: weight.detach()
        for name, weight in model.named_parameters()
        if weight.dim() > 1
        and not name.endswith(("pos_embed", "cls_token", "mask_token"))
        and not (model.fresh_decoder and name.startswith("decoder"))
    }


def parts_of(matrices: Mapping[str, Tensor]) -> dict[str, list[Tensor]]:
    """Return the matrices of the encoder, and those of the decoder if there are any."""
    parts: dict[str, list[Tensor]] = {}
    for name, weight in matrices.items():
        part = "decoder" if name.startswith("decoder") else "encoder"
        parts.setdefault(part, []).append(weight)
    return parts


def panels_of(matrices: Mapping[str, Tensor]) -> dict[tuple[str, str], list[tuple[int, Tensor]]]:
    """Group the matrices: (blocks or decoder_blocks, kind) -> (layer, matrix) of each layer."""
    panels: dict[tuple[str, str], list[tuple[int, Tensor]]] = {}
    for name, weight in matrices.items():
        match = _BLOCK.match(name)
        if match and match["kind"] in KINDS:
            panels.setdefault((match["part"], match["kind"]), []).append(
                (int(match["layer"]), weight)
            )
    return panels


def layers_of(matrices: Mapping[str, Tensor]) -> list[list[Tensor]]:
    """Return the matrices of each block of the encoder."""
    layers: dict[int, list[Tensor]] = {}
    for (part, _), of_kind in panels_of(matrices).items():
        for layer, weight in of_kind if part == "blocks" else ():
            layers.setdefault(layer, []).append(weight)
    return [layers[layer] for layer in sorted(layers)]


def measure(*weights: Tensor) -> dict[str, float | int]:
    """Measure the values of all given tensors together, in float64.

    "values": their number. "mean", "std", "least", "largest". "kurtosis": the excess, 0 for a
    normal distribution. "near_zero": share of values up to NEAR_ZERO times their root mean square.
    "hoyer": (sqrt(n) - sum |w| / sqrt(sum w^2)) / (sqrt(n) - 1), 0 if all are as large, 1 if one
    alone is not zero (Hoyer, 2004); of a normal distribution 0.2. Values that are all alike have
    kurtosis 0, zeros alone also a hoyer of 0.
    """
    count = sum(weight.numel() for weight in weights)
    mean = _sum(weights, lambda part: part) / count
    square = _sum(weights, torch.square) / count
    variance = _sum(weights, lambda part: (part - mean).square()) / count
    fourth = _sum(weights, lambda part: (part - mean) ** 4) / count
    size = math.sqrt(square)
    return {
        "values": count,
        "mean": mean,
        "std": math.sqrt(variance),
        "kurtosis": fourth / variance**2 - 3 if variance > 0 else 0.0,
        "near_zero": _sum(weights, lambda part: part.abs() <= NEAR_ZERO * size) / count,
        "hoyer": _hoyer(count, _sum(weights, torch.abs) / count, size),
        "least": min(float(weight.min()) for weight in weights),
        "largest": max(float(weight.max()) for weight in weights),
    }


def _sum(weights: Sequence[Tensor], of: Callable[[Tensor], Tensor]) -> float:
    """Add up a function of all values, in float64."""
    parts = (part for weight in weights for part in weight.flatten().split(_AT_ONCE))
    return float(sum(of(part.double()).sum() for part in parts))


def _hoyer(count: int, mean_size: float, root_mean_square: float) -> float:
    if count < 2 or root_mean_square == 0:
        return 0.0
    root = math.sqrt(count)
    return (root - root * mean_size / root_mean_square) / (root - 1)
