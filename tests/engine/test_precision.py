"""What --precision means for devices and for a step's tensors."""

import functools

import built_in
import pytest
import torch
from built_in import OBJECTIVES
from torch import nn
from torch.func import functional_call

from fastimae.engine.precision import precision_context, resolve_precision, weights_cast_to
from fastimae.models import create_model
from fastimae.models.vit import Attention, Block, Mlp

CPU = torch.device("cpu")


def test_precision_of_devices(monkeypatch):
    assert resolve_precision("fp32", CPU) == "fp32" and resolve_precision("bf16", CPU) == "bf16"
    for has, expected in (
        ({"amx_bf16": True}, "bf16"), ({"avx512_bf16": True}, "bf16"), ({"avx2": True}, "fp32"),
    ):  # fmt: skip
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has=has: has, raising=False)
        assert resolve_precision("auto", CPU) == expected
    with pytest.raises(ValueError, match="--precision fp16 needs a CUDA device"):
        resolve_precision("fp16", CPU)


def test_masters_stay_and_get_the_gradient_of_their_casts():
    layer, x = nn.Linear(8, 4), torch.randn(16, 8, dtype=torch.bfloat16)
    before = dict(layer.named_parameters())
    with weights_cast_to(layer, torch.bfloat16):
        assert {p.dtype for p in layer._parameters.values()} == {torch.bfloat16}
        layer(x).float().square().mean().backward()
    assert all(layer.get_parameter(name) is p for name, p in before.items())

    leaves = {name: p.detach().clone().requires_grad_() for name, p in before.items()}
    cast = {name: p.bfloat16() for name, p in leaves.items()}
    functional_call(layer, cast, (x,)).float().square().mean().backward()
    for name, p in before.items():
        assert p.grad.dtype == torch.float32 and torch.equal(p.grad, leaves[name].grad)


def test_masters_are_back_after_an_error():
    layer = nn.Linear(2, 2)
    weight = layer.weight
    with pytest.raises(ZeroDivisionError), weights_cast_to(layer, torch.bfloat16):
        raise ZeroDivisionError
    assert layer.weight is weight


def test_fp32_parameters_only_are_cast():
    layers = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2).double()])
    with precision_context(layers, "bf16", CPU):
        assert [layer.weight.dtype for layer in layers] == [torch.bfloat16, torch.float64]


def dtypes(out):
    """Return the formats of a module's output; a block has three outputs."""
    return [tensor.dtype for tensor in (out if isinstance(out, tuple) else (out,))]


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_the_residual_stream_is_bf16_and_the_losses_are_fp32(kind, make_batch):
    make = functools.partial(create_model, "mae_vit_nano_patch8", img_size=32)
    objective = built_in.build(kind, make)
    batch = make_batch(4)
    expected = objective(batch)
    seen = []
    for module in objective.modules():
        if isinstance(module, nn.Linear | Block | Attention | Mlp):
            module.register_forward_hook(lambda _m, _i, out: seen.extend(dtypes(out)))
    with precision_context(objective, "bf16", CPU):
        parts = objective(batch)
    assert set(seen) == {torch.bfloat16} and len(seen) > 20
    for name, part in parts.items():
        assert part.dtype == torch.float32
        torch.testing.assert_close(part, expected[name], rtol=2e-2, atol=2e-2)
