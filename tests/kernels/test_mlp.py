"""The MLP against its formula in float64: Triton's interpreter, torch, compiled."""

import math
import sys

import pytest
import torch
import torch.nn.functional as F
import triton
from hypothesis import given, settings
from hypothesis import strategies as st

from fastimae.kernels import _mlp_choice, mlp
from fastimae.kernels._mlp_choice import Blocks, choose
from fastimae.kernels.mlp import _backward, _forward
from fastimae.machine import release

OP = sys.modules["fastimae.kernels.mlp"]
"""The module, as the package's attribute of that name is the op."""

ACCURACY = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
"""Relative distance, as a norm; the interpreter truncates to bf16 where a GPU rounds."""
NAMES = ("out", "x", "weight1", "bias1", "weight2", "bias2")


@pytest.fixture
def like_fp16(monkeypatch):
    """Run fp32 in the kernels for fp16, where errors are easy to see."""
    monkeypatch.setattr(OP, "_DTYPES", tuple(ACCURACY))


OLD_INTERPRETER = pytest.mark.skipif(
    release(triton.__version__) < (3, 6), reason="it takes strides in elements for bytes"
)


@pytest.fixture(params=["pointers", pytest.param("descriptors", marks=OLD_INTERPRETER)])
def reached(request, monkeypatch):
    """Let kernels load blocks as they do before Hopper, and as they do from it on."""
    monkeypatch.setattr(OP.kernel, "has_descriptors", lambda device: request.param == "descriptors")


def sample(rows, width, hidden, dtype=torch.float32, out=None):
    """Return (x, weight1, bias1, weight2, bias2), and a gradient of the output."""
    out = out or width
    shapes = (rows, width), (hidden, width), (hidden,), (out, hidden), (out,)
    scales = 1, width**-0.5, 1, hidden**-0.5, 1
    parts = [scale * torch.randn(*shape) for shape, scale in zip(shapes, scales, strict=True)]
    return [part.to(dtype) for part in parts], torch.randn(rows, out).to(dtype)


def exact(inputs, grad):
    """Return the output and gradients in float64."""
    x, weight1, bias1, weight2, bias2 = leaves = [one.double().requires_grad_() for one in inputs]
    h = x @ weight1.T + bias1
    out = h * (1 + torch.erf(h / math.sqrt(2))) / 2 @ weight2.T + bias2
    return [out.detach(), *torch.autograd.grad(out, leaves, grad.double())]


def run(inputs, grad, impl="triton"):
    leaves = [one.detach().requires_grad_() for one in inputs]
    out = mlp(*leaves, impl=impl)
    return [out.detach(), *torch.autograd.grad(out, leaves, grad)]


def check(inputs, grad, impl="triton"):
    for name, got, expected in zip(
        NAMES, run(inputs, grad, impl), exact(inputs, grad), strict=True
    ):
        assert got.dtype == inputs[0].dtype and got.shape == expected.shape, name
        assert (got.double() - expected).norm() <= ACCURACY[got.dtype] * expected.norm(), name


@pytest.mark.parametrize(("rows", "width", "hidden"), [(1, 8, 8), (70, 24, 136), (130, 72, 200)])
def test_output_and_gradients(rows, width, hidden, like_fp16, reached):
    check(*sample(rows, width, hidden))


@pytest.mark.parametrize("dtype", ACCURACY)
def test_dtypes(dtype, like_fp16, reached):
    check(*sample(50, 48, 192, dtype))


@settings(max_examples=6)
@given(st.integers(1, 140), *[st.integers(1, 20).map(lambda times: 8 * times)] * 3)
def test_any_shape(rows, width, hidden, out):
    check(*sample(rows, width, hidden, torch.float16, out))


def test_products_work_with_any_blocks(like_fp16, monkeypatch):
    inputs, grad = sample(70, 40, 264)
    for columns, inner in ((64, 64), (128, 16), (256, 64), (256, 16)):
        blocks = Blocks(64, columns, inner, 4, 3)
        row = choose(1, 1, grad.device)._replace(forward=blocks, backward=blocks)
        monkeypatch.setattr(OP, "choose", lambda *_, row=row: row)
        check(inputs, grad)


def test_programs_take_several_tiles(like_fp16, monkeypatch):
    monkeypatch.setattr(OP.kernel, "GROUP", 2)
    inputs, grad = sample(600, 8, 136)  # five tiles of rows: more than GROUP
    expected = run(inputs, grad)
    for count in (3, 100):  # the interpreter counts as one
        monkeypatch.setattr(OP.kernel, "multiprocessor_count", lambda device, count=count: count)
        for got, want in zip(run(inputs, grad), expected, strict=True):
            assert torch.equal(got, want)


@pytest.fixture
def through(monkeypatch):
    """Pass h through an identity layer: gelu(h), and the gradient, from the kernels."""

    def call(h):
        eye, zero = torch.eye(8), torch.zeros(8)
        inputs = h.reshape(-1, 8), eye, zero, eye, zero
        return [one.flatten() for one in run(inputs, torch.ones(len(h) // 8, 8))[:2]]

    return call


def test_gelu_is_that_of_erf_to_the_last_bits_of_fp32(through, like_fp16):
    h = torch.linspace(-20, 20, 8000)
    got, slope = through(h)
    exact = h.double().requires_grad_()
    expected = F.gelu(exact)
    (wanted,) = torch.autograd.grad(expected.sum(), exact)
    assert (got - expected).abs().max() < 1e-6  # the last bit of values from 8 on
    near = h.abs() < 4
    assert (got - expected)[near].abs().max() < 5e-7
    assert (slope - wanted).abs().max() < 5e-7


def test_gelu_of_large_values(through, like_fp16):
    big = torch.tensor([1e2, 1e4, 1e20, 3e38])
    for sign, value, slope in ((1, big, 1.0), (-1, torch.zeros(4), 0.0)):
        got = through((sign * big).repeat(2))
        torch.testing.assert_close(got[0], value.repeat(2), rtol=1e-6, atol=0)
        assert got[1].eq(slope).all()


def test_forward_rounds_before_gelu_as_torch_does():
    """So that backward differentiates at the value that forward used."""
    inputs, _ = sample(64, 64, 64, torch.float16)
    _, h, activated = _forward(*inputs, True)
    torch.testing.assert_close(activated, F.gelu(h.float()).half(), rtol=0, atol=2e-3)
    assert (activated == F.gelu(h)).float().mean() > 0.99
    out, none, nothing = _forward(*inputs, False)
    assert none.numel() == nothing.numel() == 0
    assert torch.equal(out, mlp(*inputs, impl="triton"))


def test_only_inputs_that_need_a_gradient_get_one():
    """Such as a late bias in a block, and a frozen MLP."""
    inputs, grad = sample(20, 16, 32, torch.half)
    expected = dict(zip(NAMES, run(inputs, grad), strict=True))
    for wanted in (("x", "weight1", "bias1", "weight2"), ("x",), ("bias1",), ("weight2", "bias2")):
        leaves = [
            one.detach().requires_grad_(name in wanted)
            for name, one in zip(NAMES[1:], inputs, strict=True)
        ]
        out = mlp(*leaves, impl="triton")
        asked = [one for one in leaves if one.requires_grad]
        for name, got in zip(wanted, torch.autograd.grad(out, asked, grad), strict=True):
            assert torch.equal(got, expected[name]), name


@pytest.mark.parametrize("impl", ["triton", "torch"])
def test_rows_of_any_layout(impl):
    """Batches of tokens, strided columns, odd addresses, and a gradient of .sum()."""
    (x, *parameters), _ = sample(24, 16, 32, torch.half)
    one = torch.ones(()).half()
    expected = run((x, *parameters), one.expand(24, 16), impl)
    views = {
        "batched": x.view(2, 3, 4, 16),
        "as it was": x,
        "columns apart": torch.cat([x, x], 1)[:, :16],
        "odd": torch.cat([x.new_zeros(1), x.flatten()])[1:].view(24, 16),
        "turned": x.t().contiguous().t(),
    }
    for name, view in views.items():
        got = run((view, *parameters), one.expand(view.shape), impl)
        assert got[0].shape == got[1].shape == view.shape, name
        for part, want in zip(got, expected, strict=True):
            torch.testing.assert_close(part.reshape(want.shape), want, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("impl", ["triton", "torch"])
def test_one_row_without_a_batch(impl):
    (x, *parameters), grad = sample(1, 16, 32, torch.half)
    alone, expected = run((x[0], *parameters), grad[0], impl), run((x, *parameters), grad, impl)
    assert alone[0].shape == alone[1].shape == (16,)
    for part, want in zip(alone, expected, strict=True):
        torch.testing.assert_close(part.reshape(want.shape), want, rtol=2e-3, atol=2e-3)


def test_parameters_of_any_layout(like_fp16, reached):
    """A strided bias and transposed weights."""
    inputs, grad = sample(20, 16, 32)
    apart = [one.repeat_interleave(2)[::2] if one.ndim == 1 else one.t().contiguous().t()
             for one in inputs]  # fmt: skip
    assert not any(one.is_contiguous() for one in apart)
    check(apart, grad)


@pytest.mark.parametrize("impl", ["triton", "torch"])
def test_nan_stays_nan(impl):
    """NaN stays in its row of x and in its layer; otherwise a failing run would continue."""
    (x, weight1, *rest), grad = sample(20, 16, 32, torch.half)
    x[3, 5] = float("nan")
    out, of_x, *_ = run((x, weight1, *rest), grad, impl)
    assert out.isnan().any(1).nonzero().flatten().tolist() == [3]
    assert of_x.isnan().any(1).nonzero().flatten().tolist() == [3]
    weight1[2, 7] = float("nan")
    out, of_x, of_weight1, of_bias1, of_weight2, _ = run((x, weight1, *rest), grad, impl)
    assert out.isnan().all() and of_x.isnan().all()
    assert of_bias1[2].isnan() and of_weight1[2].isnan().all() and of_weight2[:, 2].isnan().all()


@pytest.mark.parametrize("impl", ["triton", "torch"])
@pytest.mark.parametrize("shape", [(0, 16), (0, 5, 16), (5, 0, 16)], ids=str)
def test_empty(shape, impl):
    (_, *parameters), _ = sample(1, 16, 32, torch.half)
    empty = torch.empty(shape, dtype=torch.half)
    out, x, *gradients = run((empty, *parameters), empty, impl)
    assert out.shape == x.shape == shape
    assert all(one.eq(0).all() for one in gradients)


def test_torch_equals_two_layers():
    """Bit-equal, and no more is kept for backward."""
    (x, *parameters), grad = sample(20, 16, 32)
    saved = []
    keep = lambda tensor: saved.append(tensor) or tensor  # noqa: E731
    leaves = [one.requires_grad_() for one in (x, *parameters)]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        got = mlp(*leaves)
        count = len(saved)
        weight1, bias1, weight2, bias2 = leaves[1:]
        expected = F.linear(F.gelu(F.linear(leaves[0], weight1, bias1)), weight2, bias2)
    assert torch.equal(got, expected) and len(saved) == 2 * count
    pair = [torch.autograd.grad(out, leaves, grad) for out in (got, expected)]
    assert all(torch.equal(*parts) for parts in zip(*pair, strict=True))
    check([one.detach() for one in leaves], grad, "torch")


def test_custom_ops_and_compilation():
    inputs, grad = sample(70, 16, 72, torch.half)
    leaves = [one.requires_grad_() for one in inputs]
    torch.library.opcheck(_forward, (*leaves, True))
    torch.library.opcheck(_forward, ([one.detach() for one in inputs] + [False]))
    _, h, _ = _forward(*inputs, True)
    torch.library.opcheck(_backward, (grad, inputs[3].detach(), h.detach()))
    compiled = torch.compile(mlp, fullgraph=True, backend="aot_eager")
    got = compiled(*leaves, impl="triton")
    expected = run(inputs, grad)
    assert torch.equal(got, expected[0])
    for one, other in zip(torch.autograd.grad(got, leaves, grad), expected[1:], strict=True):
        assert torch.equal(one, other)
    with torch.no_grad():
        assert torch.equal(compiled(*leaves, impl="triton"), expected[0])


def test_refusals():
    (x, *parameters), _ = sample(4, 16, 32)

    def refused(words, *inputs):
        with pytest.raises(ValueError, match=words):
            mlp(*inputs, impl="triton")

    refused("cannot run: its dtypes are torch.float32", x, *parameters)
    refused("cannot run: its dtypes are torch.float16, torch.float32", x.half(), *parameters)
    odd, _ = sample(4, 16, 36, torch.half)
    refused("cannot run: its widths are 16 and 36, and it takes multiples of 8", *odd)
    half = [one.half() for one in (x, *parameters)]
    with torch.autocast("cpu", torch.bfloat16):
        refused("cannot run: autocast chooses its dtypes", *half)
    kind = type("Quantised", (torch.Tensor,), {})
    refused(
        "cannot run: one of its tensors is of a subclass of Tensor",
        half[0].as_subclass(kind),
        *half[1:],
    )
    with pytest.raises(ValueError, match="impl='fast' is not one of"):
        mlp(x, *parameters, impl="fast")


def test_the_interpreter_counts_as_the_oldest_gpu():
    """The settings that the tests above run with."""
    assert not _mlp_choice.has_descriptors(torch.device("cpu"))
