"""AdamW in chunks on a CPU: bit-equal to torch's on contiguous tensors."""

import pytest
import torch

from fastimae.kernels import _adamw_chunks
from fastimae.kernels._adamw_chunks import update_in_chunks

SHAPES = [(), (0,), (7,), (64,), (65,), (3, 43), (1000,), (5, 1), (2, 64)]
BETAS, EPS, DECAY = (0.9, 0.95), 1e-8, 0.05


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch):
    """Make chunks so small that some split a tensor and some hold several tensors."""
    monkeypatch.setattr(_adamw_chunks, "CHUNK", 64)


def drawn(seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).to(dtype) for shape in SHAPES]


def strided(tensors):
    """Return the same values with a gap after each, and the memory that holds them."""
    memory = [torch.full((*x.shape, 2), 7.0, dtype=x.dtype) for x in tensors]
    for around, x in zip(memory, tensors, strict=True):
        around[..., 0] = x
    return [around[..., 0] for around in memory], memory


def torchs(dtype, scale, number):
    """Return the masters after some updates by torch, with gradients cast beforehand."""
    parameters = [torch.nn.Parameter(x) for x in drawn(0)]
    optimizer = torch.optim.AdamW(
        parameters, lr=0.01, betas=BETAS, eps=EPS, weight_decay=DECAY, fused=True
    )
    for step in range(1, number + 1):
        for parameter, gradient in zip(parameters, drawn(step, dtype), strict=True):
            parameter.grad = gradient.float() * scale
        optimizer.step()
    return [p.detach() for p in parameters]


def train(masters, gradients_of, copies, number, *, scale=None, lr=0.01):
    moments = [[torch.zeros(s) for s in SHAPES] for _ in range(2)]
    steps = [torch.tensor(0.0) for _ in SHAPES]
    for step in range(1, number + 1):
        torch._foreach_add_(steps, 1)
        update_in_chunks(
            masters, gradients_of(step), *moments, steps, copies,
            lr=lr, betas=BETAS, eps=EPS, weight_decay=DECAY, scale=scale,
        )  # fmt: skip


@pytest.mark.parametrize("scale", [1.0, 0.3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_chunks_give_the_same_result(dtype, scale):
    masters, copies = drawn(0), drawn(0, torch.bfloat16)
    factor = None if scale == 1.0 else torch.tensor(scale)
    train(masters, lambda step: drawn(step, dtype), copies, 100, scale=factor)
    expected = torchs(dtype, scale, 100)
    assert all(map(torch.equal, masters, expected))
    assert all(map(torch.equal, copies, [x.bfloat16() for x in expected]))


@pytest.mark.parametrize("which", ["masters", "gradients", "copies"])
def test_strides_change_nothing(which):
    """torch's AdamW assumes contiguous memory and would write into the gaps."""
    columns = {"masters": drawn(0), "copies": drawn(0, torch.bfloat16)}
    memory = []
    if which in columns:
        columns[which], memory = strided(columns[which])

    def gradients(step):
        plain = drawn(step, torch.bfloat16)
        return strided(plain)[0] if which == "gradients" else plain

    train(columns["masters"], gradients, columns["copies"], 3)
    expected = torchs(torch.bfloat16, 1.0, 3)
    assert all(map(torch.equal, columns["masters"], expected))
    assert all(map(torch.equal, columns["copies"], [x.bfloat16() for x in expected]))
    assert all((around[..., 1] == 7).all() for around in memory)


def test_gradients_are_left_alone():
    kept = drawn(1)
    gradients = [x.clone() for x in kept]
    train(drawn(0), lambda step: gradients, None, 2, scale=torch.tensor(0.5))
    assert all(map(torch.equal, gradients, kept))


def test_the_learning_rate_may_be_a_tensor():
    one, other = drawn(0), drawn(0)
    train(one, drawn, None, 3)
    train(other, drawn, None, 3, lr=torch.tensor(0.01))
    for mine, expected in zip(other, one, strict=True):
        torch.testing.assert_close(mine, expected)


def test_nothing_to_update():
    update_in_chunks([], [], [], [], [], [], lr=0.1, betas=BETAS, eps=EPS, weight_decay=0.0)
