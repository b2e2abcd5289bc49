"""The MLP's products on a real GPU against float64, at real and ragged shapes."""

import pytest
import torch
import torch.nn.functional as F

from fastimae.kernels import _mlp_tile as kernel
from fastimae.kernels import mlp
from fastimae.kernels._mlp_choice import choose
from fastimae.kernels._tables import architecture, capability

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
NORMS = {torch.float16: 2e-3, torch.bfloat16: 1e-2}
"""Relative distance of norms that rounding explains."""
SHAPES = [(12800, 768, 3072), (6400, 1024, 4096), (50432, 512, 2048), (3, 8, 8), (1000, 200, 328)]


def sample(rows, width, hidden, dtype):
    """Return leaves, and a gradient of the output."""
    shapes = (rows, width), (hidden, width), (hidden,), (width, hidden), (width,)
    scales = 1, width**-0.5, 1, hidden**-0.5, 1
    new = {"dtype": dtype, "device": "cuda"}
    leaves = [
        (scale * torch.randn(*shape, device="cuda")).to(dtype).requires_grad_()
        for shape, scale in zip(shapes, scales, strict=True)
    ]
    return leaves, torch.randn(rows, width, **new)


def results(call, leaves, grad):
    out = call(*leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, grad)]


def close(got, expected, dtype):
    for one, other in zip(got, expected, strict=True):
        assert one.isfinite().all() and one.shape == other.shape
        assert (one.double() - other.double()).norm() <= NORMS[dtype] * other.double().norm()


def ours(*leaves):
    return mlp(*leaves, impl="triton")


@pytest.mark.parametrize("dtype", NORMS)
@pytest.mark.parametrize("shape", SHAPES)
def test_output_and_gradients(shape, dtype):
    leaves, grad = sample(*shape, dtype)
    exact = [one.detach().double().requires_grad_() for one in leaves]
    plain = lambda x, a, b, c, d: F.linear(F.gelu(F.linear(x, a, b)), c, d)  # noqa: E731
    got = results(ours, leaves, grad)
    close(got, results(plain, exact, grad.double()), dtype)
    for one, again in zip(got, results(ours, leaves, grad), strict=True):
        assert torch.equal(one, again)


def test_without_a_gradient_nothing_changes():
    leaves, _ = sample(1000, 200, 328, torch.bfloat16)
    with torch.no_grad():
        assert torch.equal(ours(*leaves), ours(*leaves))
        expected = mlp(*leaves, impl="torch")
    close([ours(*leaves)], [expected], torch.bfloat16)


def test_all_blocks_that_may_be_chosen():
    cases = pytest.importorskip("benchmarks.mlp.cases")
    device = torch.device("cuda")
    number = architecture("mlp", capability(device))
    x, weight1, bias1, weight2, grad, h = cases.MlpShape(1000, 264).inputs(device)
    present = choose(1000, 264, device)
    expected = kernel.forward(x, weight1, bias1, present.forward, keep=True)
    for blocks in cases.blocks_to_try("forward", number):
        got = kernel.forward(x, weight1, bias1, blocks, keep=True)
        close(got, expected, torch.bfloat16)
    expected = kernel.backward(grad, weight2, h, present.backward)
    for blocks in cases.blocks_to_try("backward", number):
        close(kernel.backward(grad, weight2, h, blocks), expected, torch.bfloat16)


def test_compiled_and_in_a_cuda_graph():
    leaves, grad = sample(1000, 200, 328, torch.bfloat16)
    expected = results(ours, leaves, grad)
    compiled = torch.compile(ours, fullgraph=True)
    close(results(compiled, leaves, grad), expected, torch.bfloat16)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        results(ours, leaves, grad)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = results(ours, leaves, grad)
    with torch.no_grad():
        leaves[0].copy_(torch.randn_like(leaves[0]))
    graph.replay()
    torch.cuda.synchronize()
    close(got, results(ours, leaves, grad), torch.bfloat16)
