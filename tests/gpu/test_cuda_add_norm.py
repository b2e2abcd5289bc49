"""add_norm on a real GPU: against its specification in double precision, alone and in blocks."""

import pytest
import torch
from torch import nn

from fastimae import kernels
from fastimae.engine.blocks import compile_blocks, recompute_blocks
from fastimae.kernels import reference
from fastimae.kernels.late_bias import column_sums
from fastimae.models import vit

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
NORMS = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
"""Relative distance of norms that rounding explains."""
EPS = 1e-6


def close(got, expected, dtype):
    distance = (got.double() - expected.double()).norm()
    assert got.isfinite().all() and distance <= NORMS[dtype] * expected.double().norm()


def results(function, args, grads, **options):
    """Return sum, norm, and gradients of x, change, bias, weight and norm_bias."""
    leaves = [part.detach().requires_grad_() for part in args]
    out = function(*leaves, EPS, **options)
    return [*out, *torch.autograd.grad(out, leaves, grads)]


@pytest.mark.parametrize("dtype", NORMS)
@pytest.mark.parametrize(
    "shape", [(64, 50, 768), (9, 197, 512), (65, 1280), (33, 192), (7, 1024), (3, 100), (3, 4096)]
)
def test_add_norm(shape, dtype):
    rows = [torch.randn(shape, device="cuda") for _ in range(2)]
    args = [part.to(dtype) for part in (*rows, *torch.randn(3, shape[-1], device="cuda"))]
    grads = tuple(torch.randn(2, *shape, device="cuda").to(dtype))
    got = results(kernels.add_norm, args, grads, impl="triton")
    exact = [part.double() for part in args]
    exact[0] = (args[0] + args[1]).double() - exact[1]  # the norm is of the rounded sum
    wanted = results(reference.add_norm, exact, [grad.double() for grad in grads])
    for mine, theirs in zip(got, wanted, strict=True):
        close(mine, theirs, dtype)
    again = results(kernels.add_norm, args, grads, impl="triton")
    assert all(torch.equal(a, b) for a, b in zip(got, again, strict=True))


def test_column_sums_round_once():
    partial = torch.randn(1056, 3, 768, device="cuda")
    wanted = partial.double().sum(0)
    close(column_sums(partial, torch.float32), wanted, torch.float32)
    close(column_sums(partial, torch.bfloat16), wanted, torch.bfloat16)


@pytest.mark.parametrize("way", ["eager", "compiled", "recomputed"])
def test_blocks_have_the_gradients_of_plain_torch(way):
    """Including those of proj's and fc2's biases, which the next op computes."""
    blocks = nn.ModuleList(vit.Block(128, 4) for _ in range(3)).cuda()
    norm, x = nn.LayerNorm(128).cuda(), torch.randn(16, 50, 128, device="cuda")
    grad, parameters = torch.randn_like(x), [*blocks.parameters(), *norm.parameters()]

    def gradients():
        out = vit.run_blocks(blocks, norm, x)
        return [out.detach(), *torch.autograd.grad(out, parameters, grad)]

    kernels.set_default_impl("torch")
    try:
        wanted = gradients()
    finally:
        kernels.set_default_impl("auto")
    if way == "compiled":
        compile_blocks(blocks)
    if way == "recomputed":
        recompute_blocks(blocks)
    for mine, theirs in zip(gradients(), wanted, strict=True):
        distance = (mine - theirs).norm() / theirs.norm()
        assert distance < 5e-3  # products in TF32 may be summed in another order
