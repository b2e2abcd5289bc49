"""pair_l2: Triton's interpreter and the torch implementation, in float64 and by the reference."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastimae.kernels import reference
from fastimae.kernels._mean_square import scale_pairs
from fastimae.kernels.pair_l2 import pair_l2

IMPLS = ("triton", "torch")
# The interpreter truncates bf16 stores: one unit in the last place of the saved difference.
TOLERANCE = {torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


def by_hand(first, second, kept):
    """Return the loss by loops over images and rows, float64."""
    means = []
    for b in range(len(first)):
        rows = [m for m in range(first.shape[1]) if kept is None or kept[b, m]]
        squares = [((first[b, m].double() - second[b, m].double()) ** 2).mean() for m in rows]
        nothing = 0 * (first[b] + second[b]).double().sum()
        means.append(sum(squares) / len(rows) if rows else nothing)
    return sum(means) / len(means)


def check(first, second, kept, impl):
    """Compare value and both gradients, of a loss weighted by 3, with loops and the reference."""
    pair = [x.detach().requires_grad_() for x in (first, second)]
    loss = pair_l2(*pair, kept=kept, impl=impl)
    assert loss.dtype == torch.float32 and loss.shape == ()
    got = torch.autograd.grad(3 * loss, pair)
    for expected in (by_hand(*pair, kept), reference.pair_l2(*pair, kept)):
        torch.testing.assert_close(loss.double(), expected.double(), rtol=2e-6, atol=0)
        wanted = torch.autograd.grad(3 * expected, pair)
        for one, other in zip(got, wanted, strict=True):
            assert one.dtype == first.dtype
            error = TOLERANCE[one.dtype]
            torch.testing.assert_close(one, other, rtol=error, atol=error * other.abs().max())


def some(*shape):
    """Return bool of this shape in which the first image has no True."""
    kept = torch.rand(shape) < 0.6
    kept[0], kept[1:, 0] = False, True
    return kept


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_value_and_both_gradients(impl, dtype):
    first, second = torch.randn(2, 4, 7, 48).to(dtype)
    check(first, second, None, impl)
    check(first, second, some(4, 7), impl)


@pytest.mark.parametrize("impl", IMPLS)
def test_images_of_more_than_a_block(impl):
    first, second = torch.randn(2, 2, 5, 768)
    check(first, second, some(2, 5), impl)


@pytest.mark.parametrize("impl", IMPLS)
def test_strided_views(impl):
    first, second = torch.randn(2, 4, 9, 12)
    kept = some(9, 4).t()
    for view in (lambda x: x[:, 1:], lambda x: x[..., ::2], lambda x: x[:, :1].expand_as(x)):
        check(view(first), view(second), kept[:, : view(first).shape[1]], impl)
        check(view(first), view(second).contiguous(), None, impl)


@settings(max_examples=10)
@given(shape=st.tuples(st.integers(1, 5), st.integers(1, 40), st.integers(1, 30)))
def test_any_shape(shape):
    first, second = torch.randn(2, *shape)
    for impl in IMPLS:
        check(first, second, some(*shape[:2]), impl)


@pytest.mark.parametrize("impl", IMPLS)
def test_equal_batches_average_to_one_large_batch(impl):
    first, second = torch.randn(2, 4, 6, 8)
    kept = some(4, 6)
    halves = [
        pair_l2(*part, kept=rows, impl=impl)
        for *part, rows in zip(first.chunk(2), second.chunk(2), kept.chunk(2), strict=True)
    ]
    whole = pair_l2(first, second, kept=kept, impl=impl)
    torch.testing.assert_close(sum(halves) / 2, whole)


@pytest.mark.parametrize("impl", IMPLS)
def test_rows_that_do_not_count_may_hold_anything(impl):
    pair = torch.randn(2, 3, 4, 5)
    kept = some(3, 4)
    clean = pair_l2(*pair, kept=kept, impl=impl)
    pair[0][~kept] = torch.nan
    pair.requires_grad_()
    loss = pair_l2(*pair, kept=kept, impl=impl)
    (grad,) = torch.autograd.grad(loss, pair)
    assert torch.equal(loss, clean) and grad.isfinite().all() and not grad[:, ~kept].any()
    assert pair_l2(*pair, impl=impl).isnan()
    assert pair_l2(*pair, kept=torch.zeros_like(kept), impl=impl) == 0


@pytest.mark.parametrize("impl", IMPLS)
def test_gradients_are_opposite_and_only_where_required(impl):
    first, second = torch.randn(2, 2, 3, 4).unbind()
    second.requires_grad_()
    (alone,) = torch.autograd.grad(pair_l2(first, second, impl=impl), second)
    first.requires_grad_()
    one, other = torch.autograd.grad(pair_l2(first, second, impl=impl), (first, second))
    assert torch.equal(one, -other) and torch.equal(other, alone)


@pytest.mark.parametrize("impl", IMPLS)
def test_fp16_gradients_do_not_underflow_before_they_are_scaled(impl):
    first = torch.full((1, 64, 4096), 1e-3, dtype=torch.float16, requires_grad=True)
    loss = pair_l2(first, torch.zeros_like(first), impl=impl)
    (grad,) = torch.autograd.grad(loss * 2.0**24, first)
    wanted = 2 * first.detach().float() * 2.0**24 / first.numel()
    torch.testing.assert_close(grad.float(), wanted, rtol=1e-3, atol=0)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("kept", [None, torch.zeros(0, 3, dtype=torch.bool)])
def test_empty_tensors_give_nan_and_empty_gradients(impl, kept):
    pair = [torch.randn(0, 3, 5, requires_grad=True) for _ in range(2)]
    loss = pair_l2(*pair, kept=kept, impl=impl)
    assert loss.shape == () and loss.isnan()
    loss.backward()
    assert all(x.grad.shape == (0, 3, 5) for x in pair)


@pytest.mark.parametrize("impl", IMPLS)
def test_extremes_pass_through(impl):
    far = torch.tensor([[[1e18, -1e18, 0.0]]])
    check(far, torch.zeros(1, 1, 3), None, impl)
    assert pair_l2(far / 0, torch.zeros(1, 1, 3), impl=impl).isnan()


@pytest.mark.parametrize(
    ("impl", "kept"), [("torch", None), ("triton", torch.tensor([[True, False, True]] * 4))]
)
def test_full_graph(impl, kept):
    first, second = (torch.randn(4, 6, 8, requires_grad=True) for _ in range(2))

    def call(first, second):
        return 3 * pair_l2(first[:, 3:], second[:, 3:], kept=kept, impl=impl)

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    expected = torch.autograd.grad(call(first, second), (first, second))
    got = torch.autograd.grad(compiled(first, second), (first, second))
    torch.testing.assert_close(got, expected)


def test_custom_ops():
    pair = [torch.randn(4, 5, 6, requires_grad=True) for _ in range(2)]
    for kept, parts in ((None, 1), (some(4, 5), 4)):
        for save in (True, False):
            given = [x if save else x.detach() for x in pair]
            args = (*given, kept, torch.rand(parts), save)
            torch.library.opcheck(torch.ops.fastimae.pair_l2.default, args)
    torch.library.opcheck(scale_pairs, (pair[0].detach(), torch.randn(2)))


def test_a_second_derivative_is_refused():
    x = torch.randn(1, 2, 3, requires_grad=True)
    loss = pair_l2(x, torch.zeros(1, 2, 3)) + x.pow(3).sum()
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(loss, x, create_graph=True)
