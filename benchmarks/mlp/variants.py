"""Ways to run an MLP's products at one shape: our kernel with some blocks, torch, cuBLASLt."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.mlp.cases import Direction, MlpShape, blocks_to_try
from benchmarks.sweeps import OpVariant
from fastimae.kernels import _mlp_tile as kernel

Results = tuple[Tensor, ...]
"""gelu(h); or the gradients of h and of its bias."""


@dataclasses.dataclass(frozen=True)
class MlpInputs:
    """Random inputs in bf16, and the correct results in fp32."""

    x: Tensor
    weight1: Tensor
    bias1: Tensor
    weight2: Tensor
    grad: Tensor
    h: Tensor
    right: dict[Direction, Results]


def variants(shape: MlpShape, architecture: int) -> list[OpVariant]:
    """List the variants to try; the same at every shape."""
    found = []
    for direction in ("forward", "backward"):
        blocks = blocks_to_try(direction, architecture)
        found += [OpVariant("triton", direction, settings) for settings in blocks]
        found.append(OpVariant("torch", direction))
    return [*found, OpVariant("cublaslt", "forward")]


def inputs_of(shape: MlpShape, device: torch.device) -> MlpInputs:
    """Draw random inputs and compute the correct results."""
    x, weight1, bias1, weight2, grad, h = given = shape.inputs(device)
    exact = F.gelu(F.linear(x.float(), weight1.float(), bias1.float()))
    grad_h = torch.ops.aten.gelu_backward(grad.float() @ weight2.float(), h.float())
    return MlpInputs(*given, right={"forward": (exact,), "backward": (grad_h, grad_h.sum(0))})


def distance(variant: OpVariant, results: Results, inputs: MlpInputs) -> float:
    """Measure how far results are from the correct ones, as the largest relative norm."""
    pairs = zip(results, inputs.right[variant.direction], strict=True)
    return max(((got.float() - right).norm() / right.norm()).item() for got, right in pairs)


def call_of(variant: OpVariant, inputs: MlpInputs) -> Callable[[], Results]:
    """Prepare a call that returns gelu(h), or the gradients of h and of its bias."""
    i, blocks = inputs, variant.settings
    return {
        ("triton", "forward"): lambda: kernel.forward(i.x, i.weight1, i.bias1, blocks, keep=True)[
            1:
        ],
        ("triton", "backward"): lambda: kernel.backward(i.grad, i.weight2, i.h, blocks),
        ("torch", "forward"): lambda: (F.gelu(F.linear(i.x, i.weight1, i.bias1)),),
        ("torch", "backward"): lambda: _torch_backward(i),
        ("cublaslt", "forward"): lambda: (
            torch._addmm_activation(i.bias1, i.x, i.weight1.t(), use_gelu=True),
        ),
    }[variant.name, variant.direction]


def _torch_backward(inputs: MlpInputs) -> Results:
    grad_h = torch.ops.aten.gelu_backward(inputs.grad @ inputs.weight2, inputs.h)
    return grad_h, grad_h.sum(0)
