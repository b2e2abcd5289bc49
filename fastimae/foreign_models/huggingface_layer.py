"""A transformer layer of Hugging Face's ViTMAE, Pixio and ViT: one product for q, k and v, our
attention, one pass for the residual sum and its norm, our MLP.

Names of its parts differ between versions of transformers, their order does not: `_linears`.
B = batch, L = tokens, D = width.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastimae import kernels
from fastimae.foreign_models.attention_part import noise_like
from fastimae.foreign_models.huggingface import library_preconditions
from fastimae.foreign_models.part import Part
from fastimae.foreign_models.preconditions import Preconditions

_KNOWN = (nn.Linear, nn.LayerNorm, nn.Dropout, nn.Identity)
_NORMS = ("layernorm_before", "layernorm_after")
_ATTENTION = ("eager", "sdpa")
"""Implementations of transformers that compute all of attention, on every device."""


def _recognise(module: nn.Module) -> str | None:
    """Recognise pre-norm layers by their two norms and six projections."""
    if not all(type(getattr(module, name, None)) is nn.LayerNorm for name in _NORMS):
        return None
    linears = _linears(module)
    width = module.layernorm_before.normalized_shape[0]
    shapes = [tuple(each.weight.shape) for each in linears]
    hidden = shapes[4][0] if len(shapes) == 6 else 0
    if shapes != [(width, width)] * 4 + [(hidden, width), (width, hidden)]:
        raise TypeError("its projections are not q, k, v, output and two of an MLP")
    known = {id(p) for each in (*linears, *_norms(module)) for p in each.parameters()}
    if others := [name for name, p in module.named_parameters() if id(p) not in known]:
        raise TypeError(f"it has {others[0]}, too")
    if None in (linears[4].bias, linears[5].bias, *(norm.bias for norm in _norms(module))):
        raise TypeError("its MLP or its norms have no bias")
    return "forward"


def _linears(layer: Any) -> list[nn.Linear]:
    """Return the projections of q, k, v, output and both of the MLP: the order of registration.

    q_proj, ..., o_proj and fc1, fc2, or query, ..., output.dense and intermediate.dense.
    """
    return [module for module in layer.modules() if type(module) is nn.Linear]


def _norms(layer: Any) -> tuple[nn.LayerNorm, nn.LayerNorm]:
    return layer.layernorm_before, layer.layernorm_after


def _preconditions(layer: Any, method: str) -> Preconditions:
    config = getattr(_with_heads(layer), "config", None)  # older versions have a class for each
    implementation = getattr(config, "_attn_implementation", "eager")
    if implementation not in _ATTENTION:
        raise ValueError(f"its attention is {implementation}")
    drop_path = getattr(layer, "drop_path", None)
    inner = [module for module in layer.modules() if module not in (layer, drop_path)]
    for module in inner:
        if not [*module.children()] and not isinstance(module, _KNOWN) and not _is_gelu(module):
            raise ValueError(f"its activation is {type(module).__name__}, and ours the exact GELU")
    return library_preconditions(layer, bypassed=inner, settings=[(config, "_attn_implementation")])


def _with_heads(layer: Any) -> Any:
    return next(module for module in layer.modules() if hasattr(module, "num_attention_heads"))


def _is_gelu(module: Any) -> bool:
    """Return whether this is torch's or transformers' exact GELU."""
    if type(module) is nn.GELU:
        return module.approximate == "none"
    return getattr(module, "act", None) is F.gelu


def _fits(layer: Any, hidden_states: Tensor) -> bool:
    return hidden_states.ndim == 3 and not (
        layer.training and getattr(layer, "gradient_checkpointing", False)
    )


def _replacement(layer: Any, hidden_states: Tensor) -> Any:
    """Compute the layer of hidden_states [B, L, D]."""
    *qkv, out, fc1, fc2 = _linears(layer)
    before, norm = _norms(layer)
    attended = _attention(before(hidden_states), qkv, _with_heads(layer).num_attention_heads)
    change = _drop_path(layer, F.linear(attended, out.weight, out.bias))
    x, normed = kernels.add_norm(hidden_states, change, None, norm.weight, norm.bias, norm.eps)
    x = x + _drop_path(layer, kernels.mlp(normed, fc1.weight, fc1.bias, fc2.weight, fc2.bias))
    return returned(layer, x)


def returned(layer: Any, x: Tensor, *further: Any, **named: Any) -> Any:
    """Return x as the layer returns what it computes: in transformers 4, as a tuple."""
    return (x,) if "output_attentions" in inspect.signature(type(layer).forward).parameters else x


def _attention(x: Tensor, qkv: list[nn.Linear], heads: int) -> Tensor:
    """Attend all tokens of x [B, L, D] to all tokens: [B, L, D]."""
    weight = torch.cat([each.weight for each in qkv])
    bias = None if qkv[0].bias is None else torch.cat([each.bias for each in qkv])
    return kernels.attention(F.linear(x, weight, bias).unflatten(-1, (3, heads, -1)))


def _drop_path(layer: Any, change: Tensor) -> Tensor:
    drop_path = getattr(layer, "drop_path", None)
    return change if drop_path is None else drop_path(change)


def _key_bias(layer: Any) -> list[str]:
    """Return the name of the bias of keys: softmax ignores what is added to all of them."""
    bias = _linears(layer)[1].bias
    return [name for name, parameter in layer.named_parameters() if parameter is bias]


LAYER = Part(
    name="Hugging Face layer",
    recognise=_recognise,
    arguments=1,
    replacement=_replacement,
    preconditions=_preconditions,
    fits=_fits,
    vanishing=_key_bias,
    more=noise_like,
)
