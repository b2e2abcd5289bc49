"""Rows selected by a mask: as torch's gather, with the same gradient and no atomics."""

import pytest
import torch
from functorch.compile import make_boxed_func
from operations import operations, that_add_up
from torch._dynamo.backends.common import aot_autograd

from fastimae.kernels import Mask, random_masking
from fastimae.kernels.reference import gather_rows
from fastimae.kernels.rows import masked_rows, visible_rows

MASK = random_masking(torch.arange(3), (4, 5), 0.7)
ROWS = {"visible": (visible_rows, MASK.ids_keep), "masked": (masked_rows, MASK.ids_masked)}
cases = pytest.mark.parametrize(("take", "ids"), ROWS.values(), ids=ROWS)


@cases
@pytest.mark.parametrize("ahead", [0, 1, 3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_rows_and_gradients_are_those_of_a_plain_gather(take, ids, ahead, dtype):
    """Bit-equal, for any strides of the gradient."""
    x = torch.randn(3, ahead + 20, 6, dtype=dtype, requires_grad=True)
    got, expected = take(x, MASK), gather_rows(x, ids + ahead)
    assert torch.equal(got, expected)
    gradient = torch.randn(3, 6, got.shape[1], dtype=dtype).transpose(1, 2)
    for weights in (gradient, gradient[:, :, :1].expand_as(got)):
        wanted, found = (
            torch.autograd.grad(rows, x, weights, retain_graph=True)[0] for rows in (expected, got)
        )
        assert found.dtype == dtype and torch.equal(found, wanted)


@cases
def test_second_derivatives(take, ids):
    x = torch.randn(3, 21, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: take(x, MASK).square(), x)
    assert torch.autograd.gradgradcheck(lambda x: take(x, MASK).square(), x)


@cases
def test_unselected_rows_get_zeros_beside_infinite_ones(take, ids):
    x = torch.randn(3, 21, 2, requires_grad=True)
    take(x, MASK).sum().mul(torch.inf).backward()
    taken = torch.zeros(3, 21, dtype=torch.bool).scatter_(1, ids.long() + 1, True)
    assert (x.grad[taken] == torch.inf).all() and (x.grad[~taken] == 0).all()


@pytest.mark.parametrize("masked", [False, True])
def test_all_or_none_of_the_patches(masked):
    mask = Mask.from_bool(torch.full((2, 4), masked))
    x = torch.randn(2, 5, 3, requires_grad=True)
    rows = visible_rows(x, mask), masked_rows(x, mask)
    assert torch.equal(rows[masked], x[:, 1:]) and rows[not masked].shape == (2, 0, 3)
    torch.cat(rows, 1).sum().backward()
    assert torch.equal(x.grad, torch.ones(2, 5, 3).index_fill(1, torch.tensor([0]), 0))


def test_empty_batch():
    mask = random_masking(torch.empty(0, dtype=torch.int64), (4, 5), 0.7)
    x = torch.randn(0, 21, 3, requires_grad=True)
    masked_rows(x, mask).sum().backward()
    assert x.grad.shape == (0, 21, 3)


@cases
def test_no_gradient_is_added_up(take, ids):
    x = torch.randn(3, 21, 8, dtype=torch.bfloat16, requires_grad=True)
    rows, plain = take(x, MASK).sum(), gather_rows(x, ids + 1).sum()
    assert not that_add_up(operations(rows.backward))
    assert that_add_up(operations(plain.backward))  # so the check detects it


@cases
def test_compiled_as_one_graph(take, ids):
    """The backward graph has no sums, either."""
    graphs = []

    def record(graph, _):
        graphs.append([str(node.target) for node in graph.graph.nodes])
        return make_boxed_func(graph.forward)

    backend = aot_autograd(fw_compiler=record, bw_compiler=record)
    compiled = torch.compile(take, fullgraph=True, backend=backend)
    x = torch.randn(3, 21, 8, requires_grad=True)
    pair = [call(x, MASK) for call in (compiled, take)]
    assert torch.equal(*pair)
    gradients = [torch.autograd.grad(rows.square().sum(), x)[0] for rows in pair]
    assert torch.equal(*gradients)
    assert len(graphs) == 2 and not that_add_up(graphs[1])
