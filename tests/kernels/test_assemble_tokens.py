"""assemble_tokens: the Triton kernels, in the interpreter, and torch against the reference."""

import itertools
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from fastimae.kernels import reference
from fastimae.kernels.assemble_tokens import assemble_tokens

MODULE = sys.modules["fastimae.kernels.assemble_tokens"]
IMPLS = ["torch", "triton"]
SHAPES = [  # batch, patches, keep, width, class tokens
    (3, 6, 2, 5),
    (9, 5, 1, 128),  # more samples than rows of a tile
    (2, 3, 3, 8),  # nothing is masked
    (2, 4, 0, 8),  # nothing is visible
    (1, 2, 1, 600),  # two blocks of columns, the second ragged
    (9, 5, 2, 8, 4),
    (2, 4, 0, 40, 8),  # nothing is visible but class tokens
    (3, 3, 3, 5, 8),  # nothing is masked
]
ULP = {torch.float32: 0.0, torch.float16: 0.0, torch.bfloat16: 2**-7}
HALVES = [torch.float16, torch.bfloat16]
CASES = [(s, torch.float32) for s in SHAPES] + list(itertools.product(SHAPES[1:6:2], HALVES))


def inputs(batch, patches, keep, width, first=1, dtype=torch.float32):
    """Make x in dtype, fp32 mask token and positions that bf16 can hold, and a permutation."""
    x = torch.randn(batch, first + keep, width).to(dtype)
    token, positions = (torch.randn(1, n, width).bfloat16().float() for n in (1, first + patches))
    return x, token, positions, torch.rand(batch, patches).argsort(1).int()


def gradients(function, args, grad, **options):
    """Return the output, and the gradients of x, mask token and positions."""
    leaves = [part.detach().requires_grad_() for part in args[:3]]
    out = function(*leaves, args[3], **options)
    return out.detach(), *torch.autograd.grad(out, leaves, grad)


def check(args, grad, impl):
    out, *got = gradients(assemble_tokens, args, grad, impl=impl)
    expected = reference.assemble_tokens(*args)
    assert out.dtype == expected.dtype
    torch.testing.assert_close(out, expected, rtol=ULP[out.dtype], atol=0)
    exact = [part.double() for part in args[:3]]
    _, *wanted = gradients(reference.assemble_tokens, (*exact, args[3]), grad.double())
    assert [part.dtype for part in got] == [part.dtype for part in args[:3]]
    assert torch.equal(got[0].double(), wanted[0])
    coarse = impl == "torch" and grad.dtype != torch.float32  # each sample's sum is rounded
    for mine, theirs in zip(got[1:], wanted[1:], strict=True):
        tolerance = 2**-8 * grad.float().abs().sum((0, 1)).max().item() if coarse else 1e-5
        torch.testing.assert_close(mine.double(), theirs, rtol=1e-5, atol=tolerance)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(("shape", "dtype"), CASES)
def test_output_and_gradients_are_the_references(shape, dtype, impl):
    args = inputs(*shape, dtype=dtype)
    check(args, torch.randn(shape[0], args[2].shape[1], shape[3]).to(dtype), impl)


@settings(max_examples=8)
@given(*(st.integers(low, high) for low, high in ((1, 12), (1, 12), (0, 12), (1, 40), (1, 9))))
def test_any_shape(batch, patches, keep, width, first):
    args = inputs(batch, patches, min(keep, patches), width, first)
    check(args, torch.randn(batch, first + patches, width), "triton")


@pytest.mark.parametrize("impl", IMPLS)
def test_mask_token_and_positions_are_rounded_first(impl):
    x, _, _, ids = inputs(3, 6, 2, 40, dtype=torch.float16)
    args = x, torch.randn(1, 1, 40), torch.randn(1, 7, 40), ids
    assert torch.equal(assemble_tokens(*args, impl=impl), reference.assemble_tokens(*args))


@pytest.mark.parametrize(("tiles", "first"), [(2, 1), (3, 4), (100, 1)])
def test_programs_that_sum_several_tiles(tiles, first, monkeypatch):
    monkeypatch.setattr(MODULE, "tiles_per_program", lambda _: tiles)
    check(inputs(7, 6, 2, 12, first), torch.randn(7, 6 + first, 12), "triton")


@pytest.mark.parametrize("impl", IMPLS)
def test_expanded_gradients_and_strided_inputs(impl):
    x, token, positions, ids = inputs(4, 6, 2, 10)
    strided = (
        x.transpose(0, 1).contiguous().transpose(0, 1),
        token.expand(1, 1, 10)[..., ::1],
        positions.transpose(1, 2).contiguous().transpose(1, 2),
        ids.long().t().contiguous().t(),
    )
    assert not any(strided[i].is_contiguous() for i in (0, 2, 3))
    check(strided, torch.tensor(0.5).expand(4, 7, 10), impl)


@pytest.mark.parametrize("impl", IMPLS)
def test_infinities_stay_in_their_rows(impl):
    args = inputs(2, 6, 2, 8)
    args[0][0, 1] = float("inf")
    grad = torch.randn(2, 7, 8)
    grad[1, 0] = float("nan")  # the class token is not a masked row
    hidden = (args[3] >= 2)[..., None]
    grad[:, 1:].masked_fill_(~hidden, float("inf"))
    out, grad_x, grad_token, _ = gradients(assemble_tokens, args, grad, impl=impl)
    assert torch.equal(out, reference.assemble_tokens(*args))
    assert torch.isinf(grad_x[:, 1:]).all()
    wanted = (grad[:, 1:].masked_fill(~hidden, 0)).sum((0, 1))
    torch.testing.assert_close(grad_token[0, 0], wanted)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("first", [1, 8])
def test_empty_batch(impl, first):
    args = inputs(0, 6, 2, 8, first)
    out, grad_x, grad_token, grad_positions = gradients(
        assemble_tokens, args, torch.empty(0, 6 + first, 8), impl=impl
    )
    assert out.shape == (0, 6 + first, 8) and grad_x.shape == (0, 2 + first, 8)
    assert not grad_token.any() and not grad_positions.any()


@pytest.mark.parametrize("impl", IMPLS)
def test_fixed_positions_have_no_gradient(impl):
    x, token, positions, ids = inputs(2, 6, 2, 8)
    x.requires_grad_()
    assemble_tokens(x, token, positions, ids, impl=impl).sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))
    assert token.grad is None and positions.grad is None


def test_gradients_in_double():
    x, token, positions, ids = inputs(2, 3, 1, 2, 2)
    leaves = [part.double().requires_grad_() for part in (x, token, positions)]
    assert torch.autograd.gradcheck(lambda *parts: assemble_tokens(*parts, ids), leaves)


@pytest.mark.parametrize(("impl", "first"), [("torch", 4), ("triton", 1)])
def test_registration(impl, first):
    x, token, positions, ids = inputs(2, 4, 2, 8, first)
    leaves = (x.requires_grad_(), token.requires_grad_(), positions.requires_grad_())
    torch.library.opcheck(torch.ops.fastimae.assemble_tokens, (*leaves, ids, impl == "triton"))
    grad = torch.randn(2, 4 + first, 8)
    torch.library.opcheck(
        torch.ops.fastimae.assemble_tokens_backward, (grad, ids, 2, impl == "triton")
    )


@pytest.mark.parametrize(("impl", "first"), [("torch", 1), ("triton", 8)])
def test_compiled(impl, first):
    args, grad = inputs(2, 4, 2, 8, first), torch.randn(2, 4 + first, 8)
    compiled = torch.compile(assemble_tokens, fullgraph=True, backend="aot_eager")
    got = gradients(compiled, args, grad, impl=impl)
    wanted = gradients(assemble_tokens, args, grad, impl=impl)
    assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))


@pytest.mark.parametrize(
    "change",
    [
        lambda x, token, positions, ids: (x[:1], token, positions, ids),
        lambda x, token, positions, ids: (x, token[..., 1:], positions, ids),
        lambda x, token, positions, ids: (x, token, positions[:, 1:], ids),
        lambda x, token, positions, ids: (x[:, :1], token, F.pad(positions, (0, 0, 1, 0)), ids),
        lambda x, token, positions, ids: (x, token, positions[:, :2], ids[:, :1]),
    ],
)
def test_shapes_that_do_not_fit_are_refused(change):
    with pytest.raises(ValueError, match=r"assemble_tokens: shapes .* do not fit together"):
        assemble_tokens(*change(*inputs(2, 4, 2, 8)))


def test_double_precision_has_no_kernel():
    x, *rest = inputs(2, 4, 2, 8)
    with pytest.raises(ValueError, match=r"cannot run: its tokens are torch\.float64"):
        assemble_tokens(x.double(), *rest, impl="triton")
