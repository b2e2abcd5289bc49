"""Attention on packed qkv against softmax in float64: Triton's interpreter, torch, compiled."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import sdpa_kernel

from fastimae.kernels import _attention_online as online
from fastimae.kernels import _attention_tile as tile
from fastimae.kernels import attention
from fastimae.kernels.attention import _backward, _forward, _priority, choose, cross_attention

ACCURACY = {  # relative, absolute; the interpreter truncates to bf16 where a GPU rounds
    torch.float32: (1e-5, 3e-6),
    torch.float16: (2e-3, 1e-3),
    torch.bfloat16: (1.6e-2, 8e-3),
}
LENGTHS = [
    *[(1, 3, 16), (7, 2, 32), (17, 2, 64), (33, 1, 24), (50, 4, 32), (64, 1, 128)],  # tile of 64
    *[(65, 1, 64), (100, 2, 16), (197, 2, 32), (256, 1, 32)],  # larger tiles
    *[(65, 1, 80), (100, 1, 128), (257, 1, 80), (300, 1, 16)],  # online softmax
]


@pytest.fixture(autouse=True)
def _fresh_memory_is_nan():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def like_fp16(monkeypatch):
    """fp32 runs in the kernels and blocks of fp16, where its errors are plain to see."""
    in_tile, in_blocks = tile.settings, online.settings
    monkeypatch.setattr(tile, "settings", lambda n, d, _: in_tile(n, d, torch.float16))
    monkeypatch.setattr(online, "settings", lambda d, _: in_blocks(d, torch.float16))


def exact(qkv, grad):
    """Output and gradient of qkv in float64."""
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
    return out.detach(), qkv.grad


def run(qkv, grad, impl="triton"):
    qkv = qkv.detach().requires_grad_()
    out = attention(qkv, impl=impl)
    return out.detach(), torch.autograd.grad(out, qkv, grad)[0]


def check(qkv, grad, impl="triton", accuracy=None):
    rtol, atol = accuracy or ACCURACY[qkv.dtype]
    for got, expected in zip(run(qkv, grad, impl), exact(qkv, grad), strict=True):
        assert got.dtype == qkv.dtype
        assert got.is_contiguous() or impl != "triton"
        torch.testing.assert_close(got.double(), expected, rtol=rtol, atol=atol)


def sample(batch, tokens, heads, width, dtype=torch.float32):
    qkv = torch.randn(batch, tokens, 3, heads, width).to(dtype)
    return qkv, torch.randn(batch, tokens, heads * width).to(dtype)


@pytest.mark.parametrize(("tokens", "heads", "width"), LENGTHS)
def test_output_and_gradient(tokens, heads, width, like_fp16):
    check(*sample(5 if tokens < 20 else 2 if tokens < 66 else 1, tokens, heads, width))


@pytest.mark.parametrize("dtype", ACCURACY)
@pytest.mark.parametrize(
    ("tokens", "width"), [(17, 32), (50, 64), (65, 64), (257, 16)], ids=lambda value: str(value)
)
def test_dtypes(tokens, width, dtype):
    if dtype == torch.float32:
        tokens = min(tokens, 70)  # its blocks are small, and the interpreter slow
    check(*sample(2, tokens, 1, width, dtype))


@settings(max_examples=15)
@given(st.integers(1, 40), st.integers(1, 4), st.integers(1, 3), st.sampled_from([8, 16, 40, 72]))
def test_any_shape(tokens, batch, heads, width):
    check(*sample(batch, tokens, heads, width, torch.float16))


@pytest.mark.parametrize(("tokens", "width"), [(50, 64), (100, 32), (130, 128)])
def test_extreme_logits(tokens, width, like_fp16):
    qkv, grad = sample(1, tokens, 1, width)
    qkv[:, :, :2] *= 10  # logits of some hundreds: softmax is nearly a choice of one key
    check(qkv, grad, accuracy=(2e-3, 2e-3))
    qkv[:, :, :2] *= 100
    for result in run(qkv, grad):
        assert result.isfinite().all()


@pytest.mark.parametrize(("tokens", "width"), [(17, 16), (70, 16), (70, 128)])
def test_equal_logits_give_the_mean(tokens, width, like_fp16):
    qkv, grad = sample(2, tokens, 1, width)
    qkv[:, :, 1] = 100.0
    check(qkv, grad, accuracy=(1e-4, 1e-3))  # q is multiplied by sums of 100s that cancel
    out = attention(qkv, impl="triton")
    torch.testing.assert_close(out, qkv[:, :, 2, 0].mean(1, keepdim=True).expand_as(out))


@pytest.mark.parametrize("shape", [(0, 50, 2, 16), (0, 300, 2, 16), (2, 0, 2, 16)])
@pytest.mark.parametrize("impl", ["triton", "torch"])
def test_empty(shape, impl):
    qkv, grad = sample(*shape)
    out, grad_qkv = run(qkv, grad, impl)
    assert out.shape == grad.shape
    assert grad_qkv.shape == qkv.shape


@pytest.mark.parametrize(("tokens", "width"), [(20, 16), (70, 128)])
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


@pytest.mark.parametrize(("tokens", "width"), [(20, 16), (70, 128)])
def test_strides_of_the_gradient(tokens, width, like_fp16):
    qkv, grad = sample(2, tokens, 1, width)
    turned = grad.transpose(0, 2).contiguous().transpose(0, 2)
    assert torch.equal(run(qkv, turned)[1], run(qkv, grad)[1])
    one = torch.ones(()).expand(grad.shape)  # what .sum() hands back
    assert torch.equal(run(qkv, one)[1], run(qkv, one.contiguous())[1])


@pytest.mark.parametrize("tokens", [5, 17, 50, 70, 257])
def test_a_sample_has_the_same_bits_in_any_batch_and_run(tokens):
    qkv, grad = sample(3, tokens, 1, 16, torch.float16)
    whole = run(qkv, grad)
    for again, alone in zip(run(qkv, grad), run(qkv[1:2], grad[1:2]), strict=True):
        assert torch.equal(again, whole[again.dim() == 5])
        assert torch.equal(alone[0], whole[alone.dim() == 5][1])


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
def test_autocast_does_not_shorten_fp32(impl):
    qkv, grad = sample(1, 9, 1, 16)
    with torch.autocast("cpu", torch.bfloat16):
        check(qkv, grad, impl)


@pytest.mark.parametrize("tokens", [9, 70])
def test_custom_ops_and_compilation(tokens):
    qkv, grad = sample(2, tokens, 1, 128, torch.float16)
    out, lse = _forward(qkv)
    torch.library.opcheck(_forward, (qkv.requires_grad_(),))
    torch.library.opcheck(_backward, (grad, qkv.detach(), out, lse))
    compiled = torch.compile(attention, fullgraph=True, backend="aot_eager")
    got = compiled(qkv, impl="triton")
    expected = run(qkv, grad)
    assert torch.equal(got, expected[0])
    assert torch.equal(torch.autograd.grad(got, qkv, grad)[0], expected[1])


def test_sdpa_with_priorities_compiles():
    @torch.compile(fullgraph=True, backend="aot_eager")
    def attend(q):
        with sdpa_kernel(_priority((9, 0)), set_priority=True):
            return cross_attention(q, q, q)

    q = torch.randn(1, 2, 5, 16)
    torch.testing.assert_close(attend(q), cross_attention(q, q, q))
    assert _priority((9, 0))[0].name == "CUDNN_ATTENTION"
    assert _priority((8, 0))[0].name == _priority((10, 0))[0].name == "FLASH_ATTENTION"


def test_choice():
    bf16 = torch.bfloat16
    assert choose(50, 64, bf16, (9, 0)) == choose(197, 32, bf16, (9, 0)) == "triton"
    assert choose(50, 80, bf16, (8, 6)) == choose(65, 64, bf16, (12, 0)) == "triton"
    assert choose(257, 80, bf16, (9, 0)) == choose(197, 64, bf16, (9, 0)) == "sdpa"
    assert choose(50, 256, bf16, (9, 0)) == choose(50, 64, bf16, (7, 5)) == "sdpa"
    assert choose(50, 64, torch.float32, (9, 0)) == "sdpa"


def test_refusals():
    with pytest.raises(ValueError, match=r"must be \[B, N, 3, h, d\], not \[2, 7, 2, 4\]"):
        attention(torch.zeros(2, 7, 2, 4))
    with pytest.raises(ValueError, match="not \\[2, 7, 4, 1, 8\\]"):
        attention(torch.zeros(2, 7, 4, 1, 8))
    for width in (20, 136):
        with pytest.raises(ValueError, match=f"cannot run: heads of {width} channels"):
            attention(torch.zeros(2, 7, 3, 1, width), impl="triton")
    with pytest.raises(ValueError, match=r"cannot run: its dtype is torch\.float64"):
        attention(torch.zeros(2, 7, 3, 1, 16, dtype=torch.float64), impl="triton")
    with pytest.raises(ValueError, match="impl='fast' is not one of"):
        attention(torch.zeros(2, 7, 3, 1, 16), impl="fast")
