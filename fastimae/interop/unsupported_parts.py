"""Parts of other vision transformers that ours lacks, so that files with them are refused.

Weights of a head or of another decoder may be dropped. Without a scale, a norm or a bias inside
the encoder, its other weights would compute something else.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from fastimae.interop.conversion import DECODER, Conversion

_BLOCKS = r"(?:decoder_)?blocks\.\d+\."
_LINEAR_OR_NORM = r"(?:attn\.(?:qkv|proj)|mlp\.fc[12]|norm[12])\.(?:weight|bias)"
_OF_CROSS = r"decoder_blocks\.\d+\.attn\.(?:q|kv)\.(?:weight|bias)"
_KNOWN = re.compile(rf"{_BLOCKS}{_LINEAR_OR_NORM}|{_OF_CROSS}|patch_embed\.proj\.(?:weight|bias)")
# Everything in these modules has an effect, under Hugging Face's names, too.
_INSIDE = re.compile(rf"{_BLOCKS}|patch_embed\.|vit\.(?:encoder|embeddings)\.")
_PARTS_INSIDE = {
    r"\.(ls\d|layer_scale\d?|gamma_\d|lambda_\d)\b": "LayerScale",
    r"\.([qk]_norm|(query|key)_norm|attn\.norm)\.": "norms of queries and keys",
    r"relative_position|rel_pos": "relative positions",
    r"\.mlp\.(w\d+|fc1_[gx])\.|\.weights_(in|out)\.": "a gated MLP (SwiGLU)",
    r"\.[qv]_bias$": "separate biases of query and value",
    r"register_tokens": "register tokens",
    r"distillation_token": "a distillation token",
}
_PARTS_BESIDE = {
    r"reg_token|register_token": "register tokens",
    r"dist_token": "a distillation token",
    r"norm_pre\.": "a norm before its blocks",
    r"rope|freqs|rel_pos|pos_embed_": "other positions",
}
_LINEAR = re.compile(r"(?P<stack>(?:decoder_)?blocks)\.\d+\.(?P<part>attn\.\w+|mlp\.\w+)\.weight")


def unsupported_part(names: Iterable[str], *, decoder: bool = False) -> str:
    """Return a part that ours lacks, with the name of a weight; "" if there is none.

    names: of the weights, converted to ours if they have a counterpart. decoder: check its blocks,
    too.
    """
    for name in names:
        if _KNOWN.fullmatch(name) or (name.startswith(DECODER) and not decoder):
            continue
        if _INSIDE.match(name):
            return f"{_first(_PARTS_INSIDE, re.search, name) or 'an unknown part'} ({name})"
        if part := _first(_PARTS_BESIDE, re.match, name):
            return f"{part} ({name})"
    return ""


def _first(parts: Mapping[str, str], matches: Callable, name: str) -> str:
    return next((part for pattern, part in parts.items() if matches(pattern, name)), "")


def fill_biases(conversion: Conversion) -> Conversion:
    """Fill biases that no block of a stack has (qkv_bias=False) with zeros, which is exact.

    conversion: to our names. If only some blocks lack a bias, it stays missing: an error later.
    """
    weights, filled = dict(conversion.weights), dict(conversion.filled)
    zeros: dict[str, dict[str, Tensor]] = {}
    for name, weight in weights.items():
        if match := _LINEAR.fullmatch(name):
            kind = "{stack}.*.{part}.bias".format(**match.groupdict())
            bias = f"{name.removesuffix('weight')}bias"
            zeros.setdefault(kind, {})[bias] = torch.zeros(len(weight))
    for kind, biases in zeros.items():
        if weights.keys().isdisjoint(biases):
            weights |= biases
            filled[kind] = "zeros, as the file has none"
    return dataclasses.replace(conversion, weights=weights, filled=filled)
