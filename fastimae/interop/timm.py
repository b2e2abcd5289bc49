"""timm's vision transformers (vit_*_patch*_*.mae and plain ones): our encoder's names.

So are the official encoder-only and fine-tuned MAE files: a classifier is `head`, behind `norm`
(class token) or, with `global_pool="avg"`, behind `fc_norm`, and `norm` is then no part of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fastimae.engine.files import Unfit
from fastimae.interop.conversion import Conversion, encoder_of

CLASSIFIED = "classified"
"""What timm's config.json says that a classifier takes: "avg", the mean, or "token"."""
_IT = "the model of this config.json"


def from_mae(weights: Mapping[str, Tensor], global_pool: str = "token") -> Conversion:
    """Our names -> timm's: the encoder, with the classifier where there is one.

    A `mask_token` would make timm's `checkpoint_filter_fn` take the file for a DINOv2, so no key
    of the decoder may stay. global_pool: what `timm.create_model` will be given. With "avg", timm
    normalises the mean of the tokens (`fc_norm`) where MAE normalises the tokens (`norm`): where
    the weights have no `fc_norm`, that takes the values of `norm`.
    """
    encoder = encoder_of(weights)
    kept, renamed = dict(encoder.weights), {}
    if global_pool == "avg":
        for kind in ("weight", "bias"):
            norm = kept.pop(f"norm.{kind}", None)
            if norm is not None and f"fc_norm.{kind}" not in kept:
                kept[f"fc_norm.{kind}"] = norm
                renamed[f"norm.{kind}"] = f"fc_norm.{kind}"
    return Conversion(kept, renamed, encoder.dropped)


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the config.json of timm's files on the hub says, by our flags' names.

    The architecture's name tells its heads, unless arguments of the model do. Raises Unfit for
    arguments that make a model compute what ours cannot, and that its weights do not tell.
    """
    of_data, of_model = config.get("pretrained_cfg") or {}, config.get("model_args") or {}
    if of_model.get("act_layer") not in (None, "gelu"):
        raise Unfit(f"computes with act_layer={of_model['act_layer']}, which MAE has not", _IT)
    if of_model.get("no_embed_class"):
        raise Unfit("has no position for its class token (no_embed_class), which MAE has", _IT)
    said = {
        "model": config.get("architecture"),
        "num_heads": of_model.get("num_heads"),
        "input_size": of_model.get("img_size") or list(of_data.get("input_size") or ())[1:] or None,
        "mean": of_data.get("mean"),
        "std": of_data.get("std"),
        CLASSIFIED: of_model.get("global_pool", config.get("global_pool")),
    }
    return {name: value for name, value in said.items() if value is not None}
