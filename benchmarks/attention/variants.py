"""Ways to run attention at one shape: our kernel with some pass, or a back end of SDPA.

B = batch, N = tokens, h = heads, d = width of a head.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.attention.cases import AttentionShape, passes
from benchmarks.sweeps import OpVariant
from fastimae.kernels import _attention_tile as kernel
from fastimae.kernels._attention_choice import BACKENDS, choose, tile_of

DIRECTIONS = ("forward", "backward")


@dataclasses.dataclass(frozen=True)
class AttentionInputs:
    """Random inputs, and the correct results of the first and the last sample, in float64."""

    qkv: Tensor
    """[B, N, 3, h, d]."""
    grad: Tensor
    """Gradient of the output, [B, N, h * d]."""
    out: Tensor
    grad_qkv: Tensor


def variants(shape: AttentionShape, architecture: int) -> list[OpVariant]:
    """List the variants to try at a shape. SDPA's backward is timed with its forward."""
    ours = [
        OpVariant("triton", direction, settings)
        for direction in DIRECTIONS
        for settings in passes(shape, direction, architecture)
    ]
    return ours + [OpVariant(name, d) for name in BACKENDS for d in ("forward", "forward+backward")]


def inputs_of(shape: AttentionShape, device: torch.device) -> AttentionInputs:
    """Draw random inputs and compute the correct results."""
    qkv, grad = shape.inputs(device)
    few = qkv[[0, -1]].double().requires_grad_()
    out = _attend(few)
    (grad_qkv,) = torch.autograd.grad(out, few, grad[[0, -1]].double())
    return AttentionInputs(qkv, grad, out.detach(), grad_qkv)


def distance(variant: OpVariant, result: Tensor, inputs: AttentionInputs) -> float:
    """Measure how far a result is from the correct one, as a relative norm."""
    expected = inputs.out if variant.direction == "forward" else inputs.grad_qkv
    return ((result[[0, -1]].double() - expected).norm() / expected.norm()).item()


def call_of(variant: OpVariant, inputs: AttentionInputs) -> Callable[[], Tensor]:
    """Prepare a call that returns the output or, with a backward pass, the gradient of qkv."""
    if variant.name != "triton":
        return functools.partial(_sdpa, variant, inputs)
    tile = tile_of(inputs.qkv.shape[1], inputs.qkv.shape[4])
    if variant.direction == "forward":
        return lambda: kernel.forward(inputs.qkv, tile, variant.settings)[0]
    present = choose(inputs.qkv.shape[1], inputs.qkv.shape[4], inputs.qkv.device)
    out, lse = kernel.forward(inputs.qkv, tile, present.forward)
    given = inputs.grad, inputs.qkv, out, lse, tile, variant.settings
    return lambda: kernel.backward(*given, summed=True)[0]  # as in training


def _sdpa(variant: OpVariant, inputs: AttentionInputs) -> Tensor:
    qkv = inputs.qkv.detach().requires_grad_(variant.direction != "forward")
    with sdpa_kernel(getattr(SDPBackend, f"{variant.name.upper()}_ATTENTION")):
        out = _attend(qkv)
    return torch.autograd.grad(out, qkv, inputs.grad)[0] if qkv.requires_grad else out


def _attend(qkv: Tensor) -> Tensor:
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
