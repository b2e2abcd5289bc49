"""timm's layout (vit_*_patch*_*.mae and plain ones): our encoder's names, config.json.

The official encoder-only and fine-tuned MAE files have it, too. A classifier is `head`, after
`norm` (class token) or, with `global_pool="avg"`, after `fc_norm`; there is no `norm` then. Of
several class tokens (Pixio), all but the first are timm's register tokens, which compute the same;
timm's "token" is the first alone, our class feature the mean of all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fastimae.engine.checkpoint_file import Unfit
from fastimae.interop.conversion import Conversion, encoder_of

CLASSIFIED = "classified"
"""Setting from timm's config.json: the classifier's input, "avg" (the mean) or "token"."""
_SUBJECT = "the model of this config.json"


def from_mae(weights: Mapping[str, Tensor], global_pool: str = "token") -> Conversion:
    """Convert our names to timm's: the encoder, with the classifier if there is one.

    A `mask_token` would make timm's `checkpoint_filter_fn` take the file for a DINOv2, so no key
    of the decoder may stay. global_pool: the argument of `timm.create_model`. With "avg", timm
    normalises the mean of the tokens (`fc_norm`) where MAE normalises the tokens (`norm`): without
    an `fc_norm`, that gets the values of `norm`.
    """
    encoder = encoder_of(weights)
    kept, renamed = dict(encoder.weights), {}
    if global_pool == "avg":
        for kind in ("weight", "bias"):
            norm = kept.pop(f"norm.{kind}", None)
            if norm is not None and f"fc_norm.{kind}" not in kept:
                kept[f"fc_norm.{kind}"] = norm
                renamed[f"norm.{kind}"] = f"fc_norm.{kind}"
    return Conversion(split_class_tokens(kept), renamed, encoder.dropped)


def split_class_tokens(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Make timm's register tokens, `reg_token`, of all class tokens but the first."""
    first, others = weights["cls_token"].tensor_split([1], dim=1)
    registers = {"reg_token": others} if others.shape[1] else {}
    return {**weights, "cls_token": first, **registers}


def to_mae(weights: Mapping[str, Tensor]) -> Conversion:
    """Convert timm's names to ours; with register tokens, say so."""
    conversion = join_class_tokens(weights)
    joined = {"cls_token": "its reg_token, too: pool cls is their mean"}
    return dataclasses.replace(conversion, filled=joined) if conversion.renamed else conversion


def join_class_tokens(weights: Mapping[str, Tensor]) -> Conversion:
    """Undo `split_class_tokens`."""
    if "reg_token" not in weights:
        return Conversion(weights)
    joined = dict(weights)
    joined["cls_token"] = torch.cat([weights["cls_token"], joined.pop("reg_token")], dim=1)
    return Conversion(joined, {"reg_token": "cls_token"})


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings in the config.json of timm's files on the hub, by our flags' names.

    The architecture's name implies the heads, unless arguments of the model state them. Raises
    Unfit for arguments that ours does not support, and that do not show in the weights.
    """
    data, model = config.get("pretrained_cfg") or {}, config.get("model_args") or {}
    if model.get("act_layer") not in (None, "gelu"):
        raise Unfit(f"computes with act_layer={model['act_layer']}, which MAE lacks", _SUBJECT)
    if model.get("no_embed_class"):
        raise Unfit("has no position for its class token (no_embed_class), which MAE has", _SUBJECT)
    stated = {
        "model": config.get("architecture"),
        "num_heads": model.get("num_heads"),
        "input_size": model.get("img_size") or list(data.get("input_size") or ())[1:] or None,
        "mean": data.get("mean"),
        "std": data.get("std"),
        CLASSIFIED: model.get("global_pool", config.get("global_pool")),
    }
    return {name: value for name, value in stated.items() if value is not None}
