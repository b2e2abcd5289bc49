"""Pre-norm transformer blocks: the first residual sum and the norm after it in one kernel."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fastimae import kernels
from fastimae.foreign_models.attention_part import noise_like
from fastimae.foreign_models.part import Part
from fastimae.foreign_models.static_analysis import Role, analysed

_PARTS = ("norm1", "attn", "norm2", "mlp")


def block(self: Any, x: Tensor) -> Tensor:
    """Compute attention and MLP with their residual sums, of x [B, L, D]."""
    norm = self.norm2
    change = self.attn(self.norm1(x))
    total, normed = kernels.add_norm(x, change, None, norm.weight, norm.bias, norm.eps)
    return total + self.mlp(normed)


def _recognise(module: nn.Module) -> str | None:
    """Recognise the names of timm's blocks. LayerScale and stochastic depth are not ours."""
    if not all(isinstance(getattr(module, name, None), nn.Module) for name in _PARTS):
        return None
    norm = module.norm2
    if not isinstance(norm, nn.LayerNorm) or norm.bias is None:
        raise TypeError(f"norm2 is a {type(norm).__name__}, and ours a LayerNorm with a bias")
    return "forward"


BLOCK = Part(
    name="block",
    recognise=_recognise,
    arguments=1,
    replacement=block,
    preconditions=analysed(Role(shared=("norm1", "attn", "mlp"), bypassed={"norm2": "norm"})),
    fits=lambda self, x: x.ndim == 3,
    more=noise_like,
    devices=("cuda",),
)
