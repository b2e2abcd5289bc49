"""add_norm: the Triton kernels, in the interpreter, and torch against the reference."""

import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fastimae.kernels import reference
from fastimae.kernels.add_norm import add_norm
from fastimae.kernels.late_bias import column_sums, late_bias

MODULE = sys.modules["fastimae.kernels.add_norm"]
IMPLS = ["torch", "triton"]
EPS = 1e-6
SHAPES = [(1, 5, 192), (2, 2, 768), (3, 1280), (3, 12), (2, 0, 8), (40,)]
TOLERANCE = {torch.float32: 2e-6, torch.float16: 4e-3}
NAMES = ("sum", "normed", "x", "change", "bias", "weight", "norm_bias")


def inputs(shape, dtype=torch.float32):
    """Make x, change, bias, weight and norm_bias."""
    tensors = [torch.randn(shape), torch.randn(shape), *torch.randn(3, shape[-1])]
    return [tensor.to(dtype) for tensor in tensors]


def results(function, args, grads, **options):
    """Return sum, norm, and the gradients of all five inputs."""
    leaves = [part.detach().requires_grad_() for part in args]
    out = function(*leaves, EPS, **options)
    return [*(part.detach() for part in out), *torch.autograd.grad(out, leaves, grads)]


def check(args, impl, tolerance=None):
    dtype = args[0].dtype
    grads = [torch.randn(args[0].shape).to(dtype) for _ in range(2)]
    got = results(add_norm, args, grads, impl=impl)
    exact = [part.double() for part in args]
    exact[0] = (args[0] + args[1]).double() - exact[1]  # the norm is of the rounded sum
    wanted = results(reference.add_norm, exact, [grad.double() for grad in grads])
    for name, mine, theirs in zip(NAMES, got, wanted, strict=True):
        assert mine.dtype == dtype and mine.shape == theirs.shape, name
        scale = theirs.abs().max().item() if theirs.numel() else 0
        atol = (tolerance or TOLERANCE[dtype]) * max(scale, 1)
        torch.testing.assert_close(mine.double(), theirs, rtol=0, atol=atol, msg=name)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", SHAPES)
def test_outputs_and_gradients_are_the_references(shape, dtype, impl):
    check(inputs(shape, dtype), impl)


@settings(max_examples=8)
@given(st.integers(0, 9), st.integers(8, 300))
def test_any_shape(rows, width):
    """The variance of two or three values can be tiny, which amplifies rounding."""
    check(inputs((rows, width)), "triton")


@pytest.mark.parametrize("impl", IMPLS)
def test_the_variance_is_computed_after_subtracting_the_mean(impl):
    """A mean of squares minus a squared mean would have no digits left."""
    args = inputs((4, 256))
    args[0] += 3e3
    check(args, impl, tolerance=1e-3)  # at 3000, fp32 numbers are 2e-4 apart


@pytest.mark.parametrize("impl", IMPLS)
def test_the_norm_of_a_constant_row_is_the_bias(impl):
    _, _, bias, weight, norm_bias = inputs((8,))
    flat = torch.full((3, 8), 2.5)
    _, normed = add_norm(flat, flat, bias, weight, norm_bias, EPS, impl=impl)
    assert torch.equal(normed, norm_bias.expand(3, 8))


@pytest.mark.parametrize("impl", IMPLS)
def test_strided_inputs_and_expanded_gradients(impl):
    x, change, *vectors = inputs((4, 3, 10))
    strided = [x.transpose(0, 1).contiguous().transpose(0, 1), change[:1].expand(4, 3, 10)]
    assert not any(part.is_contiguous() for part in strided)
    check([*strided, *vectors], impl)
    grads = [torch.tensor(0.5).expand(4, 3, 10)] * 2
    got = results(add_norm, (*strided, *vectors), grads, impl=impl)
    wanted = results(reference.add_norm, (*strided, *vectors), grads)
    for mine, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("used", [0, 1])
def test_a_gradient_of_only_one_output(used, impl):
    """As with the last sum, which has no other use."""
    args, grad = inputs((2, 2, 24)), torch.randn(2, 2, 24)

    def one(function, *args, **options):
        leaves = [part.detach().requires_grad_() for part in args]
        out = function(*leaves, EPS, **options)[used]
        return torch.autograd.grad(out, leaves[:3], grad)

    for mine, theirs in zip(
        one(add_norm, *args, impl=impl), one(reference.add_norm, *args), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("impl", IMPLS)
def test_what_needs_no_gradient_gets_none(impl):
    x, change, _, weight, norm_bias = inputs((3, 8))
    x.requires_grad_()
    add_norm(x, change, None, weight, norm_bias, EPS, impl=impl)[1].sum().backward()
    assert x.grad is not None and change.grad is None and weight.grad is None
    with torch.no_grad():
        assert not add_norm(x, change, None, weight, norm_bias, EPS, impl=impl)[1].requires_grad


@pytest.mark.parametrize("impl", IMPLS)
def test_accumulating_into_one_gradient_does_not_change_another(impl):
    """x and change get the same tensor, and torch adds in place if it holds the only reference."""
    x, change, bias, weight, norm_bias = (part.requires_grad_() for part in inputs((4, 16)))
    weights = torch.randn(3, 4, 16)

    def step(function, **options):
        for leaf in (x, change):
            leaf.grad = None
        for _ in range(2):  # accumulates
            part = change * 1
            total, normed = function(x * 1, part, bias, weight, norm_bias, EPS, **options)
            loss = (total * weights[0] + normed * weights[1]).sum() + (part * weights[2]).sum()
            (loss + (x * weights[2]).sum()).backward()
        return x.grad, change.grad

    got, wanted = step(add_norm, impl=impl), step(reference.add_norm)
    for mine, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
    assert got[0].data_ptr() != got[1].data_ptr()


def test_both_gradients_share_a_tensor_until_then():
    args, grads = inputs((4, 16)), torch.randn(2, 4, 16)
    _, _, grad_x, grad_change, *_ = results(add_norm, args, tuple(grads), impl="triton")
    assert grad_x.data_ptr() == grad_change.data_ptr()


@pytest.mark.parametrize("processors", [1, 3])
def test_programs_take_turns_with_tiles(processors, monkeypatch):
    """For any number that a GPU runs at once; two runs agree in every bit."""
    monkeypatch.setattr(MODULE, "multiprocessor_count", lambda _: processors)
    monkeypatch.setattr(MODULE, "_WARPS_AT_ONCE", {"forward": 2, "backward": 1})
    args, grads = inputs((15, 9)), tuple(torch.randn(2, 15, 9))  # eight tiles
    check(args, "triton")
    runs = [results(add_norm, args, grads, impl="triton") for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.parametrize("rows", [1, 128, 300])
def test_column_sums(rows):
    partial = torch.randn(rows, 3, 7)
    wanted = partial.double().sum(0)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float16, 1e-3)):
        got = column_sums(partial, dtype)
        assert got.dtype == dtype
        torch.testing.assert_close(got.double(), wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 5, 12), (7, 12)])
def test_torch_gives_a_late_bias_the_gradient_of_a_linear_layer(shape, dtype):
    """The results are bit-equal."""
    layer, x, grad = nn.Linear(12, 9).to(dtype), torch.randn(shape).to(dtype), torch.randn(9)
    grad = (torch.randn(*shape[:-1], 9) * grad).to(dtype)
    expected = torch.autograd.grad(layer(x), layer.parameters(), grad)
    late = late_bias(F.linear(x, layer.weight, layer.bias.detach()), layer.bias)
    assert torch.equal(late, layer(x))
    got = torch.autograd.grad(late, layer.parameters(), grad)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def test_autocast_has_its_own_dtype_for_norms():
    args = inputs((3, 8), torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        total, normed = add_norm(*args, EPS)
        expected = F.layer_norm(args[0] + args[1], (8,), *args[3:], EPS)
    assert total.dtype == torch.bfloat16
    assert normed.dtype == expected.dtype and torch.equal(normed, expected)


def test_registration():
    leaves = [part.requires_grad_() for part in inputs((1, 2, 8))]
    for bias, save in ((leaves[2], True), (None, True), (leaves[2], False)):
        args = [*leaves[:2], bias, *leaves[3:]]
        given = args if save else [part.detach() for part in args]
        torch.library.opcheck(torch.ops.fastimae.add_norm, (*given, EPS, save))
    grad, total, weight = torch.randn(1, 2, 8), torch.randn(1, 2, 8), torch.randn(8)
    for grad_total, late in ((grad, True), (None, False)):
        args = (grad_total, grad, total, torch.rand(2, 2), weight, late)
        torch.library.opcheck(torch.ops.fastimae.add_norm_backward, args)


@pytest.mark.parametrize("impl", IMPLS)
def test_compiled(impl):
    args, grads = inputs((2, 2, 12)), tuple(torch.randn(2, 2, 2, 12))
    compiled = torch.compile(add_norm, fullgraph=True, backend="aot_eager")
    got = results(compiled, args, grads, impl=impl)
    wanted = results(add_norm, args, grads, impl=impl)
    assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))


def test_mixed_dtypes_have_no_kernel():
    x, *rest = inputs((2, 8))
    with pytest.raises(ValueError, match=r"cannot run: its dtypes are torch\.float16, torch\.fl"):
        add_norm(x.half(), *rest, EPS, impl="triton")
