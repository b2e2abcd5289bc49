"""spread_rows: the Triton kernels, in the interpreter, and torch against the reference."""

import itertools
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastimae.kernels import Mask, reference
from fastimae.kernels.spread_rows import spread_rows

MODULE = sys.modules["fastimae.kernels.spread_rows"]
SHAPES = [  # batch, patches, visible, width, class tokens
    (3, 6, 2, 5),
    (9, 5, 1, 128),  # more samples than rows of a tile
    (2, 3, 3, 8),  # nothing is masked
    (2, 4, 0, 8),  # nothing is visible
    (1, 2, 1, 600),  # two blocks of columns, the second ragged
    (9, 5, 2, 8, 4),
    (2, 4, 0, 40, 8),  # nothing is visible but class tokens
    (3, 3, 3, 5, 8),  # nothing is masked
]
HALVES = [torch.float16, torch.bfloat16]
CASES = [(s, torch.float32) for s in SHAPES] + list(itertools.product(SHAPES[1:6:2], HALVES))
impls = pytest.mark.parametrize("impl", ["torch", "triton"])


def inputs(batch, patches, keep, width, first=1, dtype=torch.float32):
    """Make rows and a random mask."""
    masked = torch.rand(batch, patches).argsort(1) >= keep
    return torch.randn(batch * (first + keep) + patches, width).to(dtype), Mask.from_bool(masked)


def with_gradient(function, rows, mask, grad, **options):
    leaf = rows.detach().requires_grad_()
    out = function(leaf, mask, **options)
    return out.detach(), torch.autograd.grad(out, leaf, grad)[0]


def check(rows, mask, grad, impl):
    out, got = with_gradient(spread_rows, rows, mask, grad, impl=impl)
    assert out.dtype == got.dtype == rows.dtype
    assert torch.equal(out, reference.spread_rows(rows, mask))
    _, wanted = with_gradient(reference.spread_rows, rows.double(), mask, grad.double())
    own = len(rows) - mask.ids_restore.shape[1]  # visible patches and class tokens
    assert torch.equal(got[:own].double(), wanted[:own])
    torch.testing.assert_close(got[own:], wanted[own:].to(got.dtype))


def test_rows_and_their_gradient_by_hand():
    """Two samples of three patches; visible are the middle one and the last one."""
    mask = Mask.from_bool(torch.tensor([[True, False, True], [True, True, False]]))
    rows = torch.tensor([10.0, 11, 20, 21, 1, 2, 3])[:, None]
    grad = torch.tensor([[1.0, 2, 4, 8], [16, 32, 64, 128]])[:, :, None]
    out, got = with_gradient(spread_rows, rows, mask, grad)
    assert out[:, :, 0].tolist() == [[10, 1, 11, 3], [20, 1, 2, 21]]
    assert got[:, 0].tolist() == [1, 4, 16, 128, 2 + 32, 64, 8]


@impls
@pytest.mark.parametrize(("shape", "dtype"), CASES)
def test_output_and_gradient_are_the_references(shape, dtype, impl):
    rows, mask = inputs(*shape, dtype=dtype)
    first = shape[4] if len(shape) > 4 else 1
    check(rows, mask, torch.randn(shape[0], first + shape[1], shape[3]).to(dtype), impl)


@settings(max_examples=8)
@given(*(st.integers(low, high) for low, high in ((1, 12), (1, 12), (0, 12), (1, 40), (1, 9))))
def test_any_shape(batch, patches, keep, width, first):
    rows, mask = inputs(batch, patches, min(keep, patches), width, first)
    check(rows, mask, torch.randn(batch, first + patches, width), "triton")


@pytest.mark.parametrize(("tiles", "first"), [(2, 1), (3, 4), (100, 1)])
def test_programs_that_sum_several_tiles(tiles, first, monkeypatch):
    monkeypatch.setattr(MODULE, "tiles_per_program", lambda _: tiles)
    check(*inputs(30, 2, 1, 12, first), torch.randn(30, 2 + first, 12), "triton")


@impls
def test_expanded_gradient_and_strided_inputs(impl):
    rows, mask = inputs(4, 6, 2, 10)
    rows = rows.t().contiguous().t()
    mask = Mask(*(part.t().contiguous().t() for part in mask))
    check(rows, mask, torch.tensor(0.5).expand(4, 7, 10), impl)


@impls
def test_infinities_stay_in_their_rows(impl):
    rows, mask = inputs(2, 6, 2, 8)
    rows[1] = float("inf")
    grad = torch.randn(2, 7, 8)
    grad[1, 0] = float("nan")  # the class token is not a masked row
    hidden = mask.mask.bool()[..., None]
    grad[:, 1:].masked_fill_(~hidden, float("inf"))
    out, got = with_gradient(spread_rows, rows, mask, grad, impl=impl)
    assert torch.equal(out, reference.spread_rows(rows, mask))
    assert torch.isinf(got[:6].view(2, 3, 8)[:, 1:]).all()
    torch.testing.assert_close(got[6:], grad[:, 1:].masked_fill(~hidden, 0).sum(0))


@impls
def test_empty_batch(impl):
    mask = Mask(*(part[:0] for part in inputs(1, 6, 2, 8)[1]))
    out, got = with_gradient(spread_rows, torch.randn(6, 8), mask, torch.empty(0, 7, 8), impl=impl)
    assert out.shape == (0, 7, 8) and torch.equal(got, torch.zeros(6, 8))


def test_gradient_in_double():
    rows, mask = inputs(2, 3, 1, 2, 2)
    rows = rows.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda rows: spread_rows(rows, mask), rows)


@pytest.mark.parametrize(("impl", "first"), [("torch", 4), ("triton", 1)])
def test_registration(impl, first):
    rows, mask = inputs(2, 4, 2, 8, first)
    rest = mask.ids_restore, 2, impl == "triton"
    torch.library.opcheck(torch.ops.fastimae.spread_rows, (rows.requires_grad_(), *rest))
    grad = torch.randn(2, 4 + first, 8)
    torch.library.opcheck(torch.ops.fastimae.spread_rows_backward, (grad, *rest))


@pytest.mark.parametrize(("impl", "first"), [("torch", 1), ("triton", 8)])
def test_compiled(impl, first):
    (rows, mask), grad = inputs(2, 4, 2, 8, first), torch.randn(2, 4 + first, 8)
    compiled = torch.compile(spread_rows, fullgraph=True, backend="aot_eager")
    got = with_gradient(compiled, rows, mask, grad, impl=impl)
    wanted = with_gradient(spread_rows, rows, mask, grad, impl=impl)
    assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))


def test_rows_of_another_mask_are_refused():
    rows, mask = inputs(2, 4, 2, 8)
    for wrong in (1, 2):  # another number of rows, and no class token
        with pytest.raises(ValueError, match=r"rows must be \[10, W\], not "):
            spread_rows(rows[wrong:], mask)


def test_double_precision_has_no_kernel():
    rows, mask = inputs(2, 4, 2, 8)
    with pytest.raises(ValueError, match=r"cannot run: its rows are torch\.float64"):
        spread_rows(rows.double(), mask, impl="triton")
