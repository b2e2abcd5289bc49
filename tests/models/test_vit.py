"""Blocks and their gradients are bit-equal to those of blocks in plain torch."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastimae.engine.blocks import compile_blocks, recompute_blocks
from fastimae.kernels import attention, random_masking
from fastimae.models.vit import Attention, Block, Mlp, run_blocks

WIDTH = 32


def stack(depth=3, dtype=torch.float32):
    """Make blocks and a norm with nonzero biases."""
    blocks, norm = nn.ModuleList(Block(WIDTH, 4) for _ in range(depth)), nn.LayerNorm(WIDTH)
    for parameter in (*blocks.parameters(), *norm.parameters()):
        if parameter.ndim == 1:
            nn.init.normal_(parameter)
    return blocks.to(dtype), norm.to(dtype)


def linear(layer, x):
    """Apply a layer whose bias gets its gradient directly."""
    return F.linear(x, layer.weight, layer.bias)


def plainly(blocks, norm, x):
    for block in blocks:
        qkv = linear(block.attn.qkv, block.norm1(x)).unflatten(-1, (3, 4, -1))
        x = x + linear(block.attn.proj, attention(qkv))
        hidden = F.gelu(linear(block.mlp.fc1, block.norm2(x)))
        x = x + linear(block.mlp.fc2, hidden)
    return norm(x)


def results(function, blocks, norm, x, grad, *args):
    """Return the output, and the gradients of x and all parameters."""
    x = x.detach().requires_grad_()
    out = function(blocks, norm, x, *args)
    return [out, *torch.autograd.grad(out, [x, *blocks.parameters(), *norm.parameters()], grad)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("way", ["plain", "recomputed", "compiled"])
def test_late_biases_give_bit_equal_results(way, dtype):
    blocks, norm = stack(dtype=dtype)
    x, grad = torch.randn(2, 2, 7, WIDTH).to(dtype)
    wanted = results(plainly, blocks, norm, x, grad)
    if way == "recomputed":
        recompute_blocks(blocks)
    if way == "compiled":
        compile_blocks(blocks, "aot_eager")
    got = results(run_blocks, blocks, norm, x, grad)
    assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))


@pytest.mark.parametrize("last", [nn.Identity(), nn.RMSNorm(WIDTH)], ids=["none", "rms"])
def test_the_last_norm_may_be_another_module(last):
    """An encoder that was fine-tuned on the mean of its patches has no such norm."""
    blocks, _ = stack()
    x, grad = torch.randn(2, 2, 7, WIDTH)
    wanted = results(plainly, blocks, last, x, grad)
    got = results(run_blocks, blocks, last, x, grad)
    assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))


def test_computing_only_masked_rows_gives_the_same_gradients():
    """The loss uses no other rows."""
    blocks, norm = stack()
    mask = random_masking(torch.arange(2), (2, 3), 0.5)
    x, grad = torch.randn(2, 7, WIDTH), torch.randn(2, 3, WIDTH)

    def taken(*args):
        rows = 1 + mask.ids_masked.long()
        return run_blocks(*args).gather(1, rows[..., None].expand(-1, -1, WIDTH))

    wanted = results(taken, blocks, norm, x, grad)
    for got, expected in zip(results(run_blocks, blocks, norm, x, grad, mask), wanted, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_gradients_of_functions_are_those_of_autograd():
    """torch.func supports only autograd functions of a certain form."""
    blocks, norm = stack()
    x, grad = torch.randn(2, 2, 7, WIDTH)

    class Loss(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = blocks

        def forward(self):
            return (run_blocks(self.blocks, norm, x) * grad).sum()

    model = Loss()

    parameters = {name: one.detach() for name, one in model.named_parameters()}
    got = torch.func.grad(lambda of: torch.func.functional_call(model, of, ()))(parameters)
    wanted = torch.autograd.grad(model(), list(model.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(got.values(), wanted, strict=True))


def test_only_a_bias_is_trained():
    blocks, norm = stack(1)
    blocks.requires_grad_(False)
    bias = blocks[0].attn.proj.bias.requires_grad_()
    x, grad = torch.randn(2, 2, 7, WIDTH)
    (got,) = torch.autograd.grad(run_blocks(blocks, norm, x), bias, grad)
    assert torch.equal(got, torch.autograd.grad(plainly(blocks, norm, x), bias, grad)[0])


@pytest.mark.parametrize(
    "part",
    [
        pytest.param(lambda x: (Attention(WIDTH, 4), x), id="attention"),
        pytest.param(lambda x: (Attention(WIDTH, 4).forward_rows, x, x[:, 1:3]), id="rows"),
        pytest.param(lambda x: (Mlp(WIDTH, 48), x), id="mlp"),
    ],
)
def test_parts_on_their_own_give_all_their_biases_gradients(part):
    """A part that is called outside a block has no `add_norm` after it."""
    function, *given = part(torch.randn(2, 7, WIDTH))
    module = getattr(function, "__self__", function)
    out, grad = function(*given), torch.randn(2, len(given[-1][0]), WIDTH)
    gradients = torch.autograd.grad(out, list(module.parameters()), grad)
    assert all(one.any() for one in gradients)
    torch.testing.assert_close(gradients[-1], grad.sum((0, 1)))
