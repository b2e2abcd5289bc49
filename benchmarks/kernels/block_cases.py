"""Cases of the ops inside transformer blocks."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.kernels.shapes import BF16, KernelCase, ModelShape, leaf
from fastimae.kernels import reference


def add_norm(s: ModelShape, where: str, tokens: int, width: int) -> KernelCase:
    """Add to the residual stream and normalise the sum."""
    names = "x", "change", "bias", "weight", "norm_bias"
    shapes = [(s.batch, tokens, width)] * 2 + [(width,)] * 3
    values = s.batch * tokens * width
    return KernelCase(
        op="add_norm",
        shape=f"{s.name} {where}, {tokens} x {width}",
        inputs=lambda device: {
            name: leaf(*one, device=device, dtype=torch.bfloat16)
            for name, one in zip(names, shapes, strict=True)
        },
        call=lambda op, x: op(*x.values(), 1e-6),
        spec=lambda x: reference.add_norm(*x.values(), 1e-6),
        # Two in, the sum and its norm out; backward: the sum and two gradients in, one out.
        forward_bytes=values * 4 * BF16,
        both_bytes=values * (4 + 4) * BF16,
    )


def attention(s: ModelShape, where: str, tokens: int, heads: int, width: int) -> KernelCase:
    """Attend."""
    d = width // heads
    values = s.batch * tokens * width
    return KernelCase(
        op="attention",
        shape=f"{s.name} {where}, {tokens} x {d}",
        inputs=lambda device: {
            "qkv": leaf(s.batch, tokens, 3, heads, d, device=device, dtype=torch.bfloat16)
        },
        call=lambda op, x: op(x["qkv"]),
        spec=lambda x: reference.attention(x["qkv"]),
        # q, k, v in, one out; backward: those and a gradient in, three out.
        forward_bytes=values * 4 * BF16,
        both_bytes=values * (4 + 4 + 3) * BF16,
        forward_flops=4 * s.batch * heads * tokens * tokens * d,
        # Backward has five products where forward has two.
        both_flops=14 * s.batch * heads * tokens * tokens * d,
        tolerance=3e-2,
    )


def mlp(s: ModelShape, where: str, tokens: int, width: int) -> KernelCase:
    """Run the MLP of a block."""
    rows, hidden = s.batch * tokens, 4 * width

    def inputs(device: torch.device) -> dict[str, Tensor]:
        new = {"device": device, "dtype": torch.bfloat16}
        scaled = lambda *size: (torch.randn(size, **new) * size[1] ** -0.5).requires_grad_()  # noqa: E731
        return {
            "x": leaf(rows, width, **new),
            "weight1": scaled(hidden, width), "bias1": leaf(hidden, **new),
            "weight2": scaled(width, hidden), "bias2": leaf(width, **new),
        }  # fmt: skip

    ends, weights = 2 * rows * width, 2 * hidden * width
    return KernelCase(
        op="mlp",
        shape=f"{s.name} {where}, {tokens} x {width}",
        inputs=inputs,
        call=lambda op, x: op(*x.values()),
        spec=lambda x: reference.mlp(*x.values()),
        # x and weights in, the result out; h out for backward, which reads it, and both gradients.
        forward_bytes=(ends + weights) * BF16,
        both_bytes=(2 * ends + 3 * weights + 2 * rows * hidden) * BF16,
        forward_flops=4 * rows * width * hidden,
        both_flops=12 * rows * width * hidden,
    )
