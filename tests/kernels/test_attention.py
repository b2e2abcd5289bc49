"""Attention on packed qkv against softmax in float64: Triton's interpreter, torch, compiled."""

import itertools
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from fastimae.kernels import attention
from fastimae.kernels._attention_choice import Pass, choose, rounded, table_for
from fastimae.kernels.attention import _backward, _forward, cross_attention

OP = sys.modules["fastimae.kernels.attention"]
"""The module, as the package's attribute of that name is the op."""

ACCURACY = {  # relative, absolute; the interpreter truncates to bf16 where a GPU rounds
    torch.float32: (1e-5, 3e-6),
    torch.float16: (2e-3, 1e-3),
    torch.bfloat16: (1.6e-2, 8e-3),
}
LENGTHS = [
    *[(1, 3, 16), (7, 2, 32), (17, 2, 64), (33, 1, 24), (50, 4, 32), (64, 1, 128)],  # tile of 64
    *[(65, 1, 64), (100, 2, 16), (197, 2, 32), (256, 1, 32)],  # larger tiles
]


@pytest.fixture
def like_fp16(monkeypatch):
    """Run fp32 in the kernels for fp16, where errors are easy to see."""
    monkeypatch.setattr(OP, "_DTYPES", tuple(ACCURACY))


def exact(qkv, grad):
    """Return the output and the gradients of qkv and of its late bias, in float64."""
    qkv = qkv.detach().double().requires_grad_()
    samples = []
    for sample in qkv:
        heads = []
        for head in range(qkv.shape[3]):
            q, k, v = sample[:, :, head].unbind(1)
            scores = q @ k.T / q.shape[1] ** 0.5
            weights = torch.exp(scores - scores.max(1, keepdim=True).values)
            heads.append(weights / weights.sum(1, keepdim=True) @ v)
        samples.append(torch.cat(heads, 1))
    out = torch.stack(samples)
    out.backward(grad.double())
    return out.detach(), qkv.grad, qkv.grad.sum((0, 1)).flatten()


def run(qkv, grad, impl="triton"):
    qkv = qkv.detach().requires_grad_()
    bias = torch.full(qkv.shape[2:], torch.nan).flatten().requires_grad_()  # its value is not used
    out = attention(qkv, bias, impl=impl)
    return out.detach(), *torch.autograd.grad(out, (qkv, bias), grad)


def check(qkv, grad, impl="triton", accuracy=None):
    rtol, atol = accuracy or ACCURACY[qkv.dtype]
    *results, grad_bias = zip(run(qkv, grad, impl), exact(qkv, grad), strict=True)
    for got, expected in results:
        assert got.dtype == qkv.dtype
        assert got.is_contiguous()
        torch.testing.assert_close(got.double(), expected, rtol=rtol, atol=atol)
    assert grad_bias[0].dtype == torch.float32
    atol *= grad[..., 0].numel() ** 0.5  # a sum over all rows
    torch.testing.assert_close(grad_bias[0].double(), grad_bias[1], rtol=rtol, atol=atol)


def sample(batch, tokens, heads, width, dtype=torch.float32):
    qkv = torch.randn(batch, tokens, 3, heads, width).to(dtype)
    return qkv, torch.randn(batch, tokens, heads * width).to(dtype)


@pytest.mark.parametrize(("tokens", "heads", "width"), LENGTHS)
def test_output_and_gradient(tokens, heads, width, like_fp16):
    check(*sample(5 if tokens < 20 else 2 if tokens < 66 else 1, tokens, heads, width))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("tokens", "width"), [(17, 64), (130, 16)])
def test_dtypes(tokens, width, dtype):
    check(*sample(2, tokens, 1, width, dtype))


@pytest.mark.parametrize(
    ("tokens", "width", "queries"),
    [(20, 32, (16, 64)), (50, 64, (16, 32, 64)), (197, 32, (32, 128))],
)
def test_forward_and_backward_may_have_different_settings(
    tokens, width, queries, like_fp16, monkeypatch
):
    """Memory that forward does not write is NaN here, and with fewer queries it writes less."""
    qkv, grad = sample(1, tokens, 1, width)
    pairs = itertools.product(queries, queries)
    for (forward, backward), parts in zip(pairs, itertools.cycle((1, 2, 4)), strict=False):
        row = choose(tokens, width, qkv.device)
        row = row._replace(forward=Pass(forward, 4, 1), backward=Pass(backward, 8, 2, parts))
        monkeypatch.setattr(OP, "choose", lambda *_, row=row: row)
        check(qkv, grad)


@pytest.mark.parametrize(("tokens", "width"), [(50, 32), (50, 64), (50, 80), (70, 64), (197, 32)])
def test_the_settings_in_the_tables_work(tokens, width, monkeypatch):
    """Warps and stages mean nothing to the interpreter: rows that differ in these are one."""
    tables = [table_for(divmod(architecture, 10)) for architecture in (80, 90, 100)]
    rows = [table[rounded(tokens, width)] for table in tables]
    passes = [(row.forward, row.backward) for row in rows]
    distinct = {tuple((each.queries, each.parts) for each in pair): pair for pair in passes}
    for forward, backward in distinct.values():
        row = rows[0]._replace(forward=forward, backward=backward)
        monkeypatch.setattr(OP, "choose", lambda *_, row=row: row)
        check(*sample(2 if tokens < 100 else 1, tokens, 1, width, torch.float16))


@settings(max_examples=8)
@given(st.integers(1, 40), st.integers(1, 3), st.integers(1, 2), st.sampled_from([8, 16, 40, 72]))
def test_any_shape(tokens, batch, heads, width):
    check(*sample(batch, tokens, heads, width, torch.float16))


@pytest.mark.parametrize(("tokens", "width"), [(50, 64), (100, 32), (70, 64)])
def test_extreme_logits(tokens, width, like_fp16):
    qkv, grad = sample(1, tokens, 1, width)
    qkv[:, :, :2] *= 10  # logits of several hundred: softmax nearly selects one key
    check(qkv, grad, accuracy=(2e-3, 2e-3))
    qkv[:, :, :2] *= 100
    for result in run(qkv, grad):
        assert result.isfinite().all()


@pytest.mark.parametrize(("tokens", "width"), [(17, 16), (70, 16), (197, 32)])
def test_equal_logits_give_the_mean(tokens, width, like_fp16):
    qkv, grad = sample(2, tokens, 1, width)
    qkv[:, :, 1] = 100.0
    check(qkv, grad, accuracy=(1e-4, 1e-3))  # q is multiplied by sums of hundreds that cancel
    out = attention(qkv, impl="triton")
    torch.testing.assert_close(out, qkv[:, :, 2, 0].mean(1, keepdim=True).expand_as(out))


@pytest.mark.parametrize("shape", [(0, 50, 2, 16), (0, 200, 2, 16), (2, 0, 2, 16)])
@pytest.mark.parametrize("impl", ["triton", "torch"])
def test_empty(shape, impl, like_fp16):
    qkv, grad = sample(*shape)
    out, grad_qkv, grad_bias = run(qkv, grad, impl)
    assert out.shape == grad.shape
    assert grad_qkv.shape == qkv.shape
    assert torch.equal(grad_bias, torch.zeros(qkv.shape[2:].numel()))


@pytest.mark.parametrize(("tokens", "width"), [(20, 16), (70, 16)])
def test_strides_of_qkv(tokens, width, like_fp16):
    qkv, grad = sample(2, tokens, 2, width)
    views = {
        "parts first": qkv.permute(2, 0, 3, 1, 4).contiguous().permute(1, 3, 0, 2, 4),
        "rows apart": torch.cat([qkv, qkv], -1)[..., :width],
        "odd strides": torch.cat([qkv, qkv[..., :3]], -1)[..., :width],
        "last not 1": qkv.transpose(3, 4).contiguous().transpose(3, 4),
    }
    expected = run(qkv, grad)
    for name, view in views.items():
        assert torch.equal(view, qkv)
        assert not view.is_contiguous()
        for got, want in zip(run(view, grad), expected, strict=True):
            assert torch.equal(got, want), name


@pytest.mark.parametrize(("tokens", "width"), [(20, 16), (70, 16)])
def test_strides_of_the_gradient(tokens, width, like_fp16):
    qkv, grad = sample(2, tokens, 1, width)
    turned = grad.transpose(0, 2).contiguous().transpose(0, 2)
    assert torch.equal(run(qkv, turned)[1], run(qkv, grad)[1])
    one = torch.ones(()).expand(grad.shape)  # the gradient of .sum()
    assert torch.equal(run(qkv, one)[1], run(qkv, one.contiguous())[1])


@pytest.mark.parametrize("tokens", [5, 50, 100])
def test_a_sample_has_the_same_bits_in_any_batch_and_run(tokens):
    qkv, grad = sample(3, tokens, 1, 16, torch.float16)
    whole, again, alone = run(qkv, grad), run(qkv, grad), run(qkv[1:2], grad[1:2])
    assert all(torch.equal(*pair) for pair in zip(whole, again, strict=True))
    assert all(torch.equal(both[1], one[0]) for both, one in zip(whole[:2], alone[:2], strict=True))


@pytest.mark.parametrize("impl", ["triton", "torch"])
def test_a_bias_changes_nothing_else(impl):
    qkv, grad = sample(3, 20, 2, 16, torch.float16)
    qkv.requires_grad_()
    expected = run(qkv, grad, impl)
    for bias in (None, torch.zeros(96)):  # a bias that needs no gradient gets none
        out = attention(qkv, bias, impl=impl)
        assert torch.equal(out, expected[0])
        assert torch.equal(torch.autograd.grad(out, qkv, grad)[0], expected[1])
    bias = torch.zeros(96, requires_grad=True)
    frozen = attention(qkv.detach(), bias, impl=impl)
    assert torch.equal(torch.autograd.grad(frozen, bias, grad)[0], expected[2])


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_late_bias_has_the_bits_of_a_linear_layers(precision):
    """Checked on the CPU."""
    layer, x = torch.nn.Linear(24, 72), torch.randn(3, 17, 24, requires_grad=True)
    grad = torch.randn(3, 17, 24).to(precision)
    leaves = x, layer.weight, layer.bias
    with torch.autocast("cpu", precision, enabled=precision != torch.float32):
        early = attention(layer(x).unflatten(-1, (3, 2, 12)))
        qkv = F.linear(x, layer.weight, layer.bias.detach())
        late = attention(qkv.unflatten(-1, (3, 2, 12)), layer.bias)
    assert torch.equal(late, early)
    pairs = zip(*(torch.autograd.grad(out, leaves, grad) for out in (early, late)), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)


@pytest.mark.parametrize("dtype", ACCURACY)
def test_torch(dtype):
    check(*sample(2, 9, 2, 20, dtype), impl="torch")
    check(*sample(2, 9, 2, 20, dtype), impl="auto")


def test_cross_attention_is_rows_of_attention():
    qkv, _ = sample(2, 9, 2, 16)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    rows = [3, 0, 7]
    torch.testing.assert_close(cross_attention(q[:, :, rows], k, v), attention(qkv)[:, rows])


@pytest.mark.parametrize("impl", ["triton", "torch"])
def test_autocast_does_not_shorten_fp32(impl, like_fp16):
    qkv, grad = sample(1, 9, 1, 16)
    with torch.autocast("cpu", torch.bfloat16):
        check(qkv, grad, impl)


@pytest.mark.parametrize("tokens", [9, 70])
def test_custom_ops(tokens):
    qkv, grad = sample(2, tokens, 1, 16, torch.float16)
    bias = torch.zeros(48, requires_grad=True)
    out, lse = _forward(qkv, bias)
    for late in (None, bias):
        torch.library.opcheck(_forward, (qkv.requires_grad_(), late))
        torch.library.opcheck(_backward, (grad, qkv.detach(), out.detach(), lse, late is not None))


@pytest.mark.parametrize(("tokens", "impl"), [(70, "triton"), (9, "torch")])
def test_compiled(tokens, impl):
    qkv, grad = sample(2, tokens, 1, 16, torch.float16)
    qkv.requires_grad_()
    bias = torch.zeros(48, requires_grad=True)
    got = torch.compile(attention, fullgraph=True, backend="aot_eager")(qkv, bias, impl=impl)
    found = (got, *torch.autograd.grad(got, (qkv, bias), grad))
    assert all(torch.equal(*pair) for pair in zip(found, run(qkv, grad, impl), strict=True))


def test_refusals():
    with pytest.raises(ValueError, match=r"must be \[B, N, 3, h, d\], not \[2, 7, 2, 4\]"):
        attention(torch.zeros(2, 7, 2, 4))
    with pytest.raises(ValueError, match="not \\[2, 7, 4, 1, 8\\]"):
        attention(torch.zeros(2, 7, 4, 1, 8))
    for width in (20, 136):
        with pytest.raises(ValueError, match=f"cannot run: heads have {width} channels"):
            attention(torch.zeros(2, 7, 3, 1, width, dtype=torch.half), impl="triton")
    for dtype in (torch.float32, torch.float64):
        with pytest.raises(ValueError, match=f"cannot run: its dtype is {dtype}"):
            attention(torch.zeros(2, 7, 3, 1, 16, dtype=dtype), impl="triton")
    for tokens, width in ((257, 16), (600, 16), (129, 64), (65, 80)):
        words = f"cannot run: {tokens} tokens with heads of {width} channels do not fit"
        with pytest.raises(ValueError, match=words):
            attention(torch.zeros(1, tokens, 3, 1, width, dtype=torch.half), impl="triton")
    with pytest.raises(ValueError, match="impl='fast' is not one of"):
        attention(torch.zeros(2, 7, 3, 1, 16), impl="fast")
