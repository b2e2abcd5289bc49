"""Learning rates that decay from layer to layer, towards an encoder's input (BEiT; MAE, A.2)."""

from __future__ import annotations

from typing import Any

from torch import nn

_EMBEDDINGS = ("cls_token", "reg_token", "pos_embed")


def encoder_groups(
    model: nn.Module, weight_decay: float, layer_decay: float, prefix: str = ""
) -> list[dict[str, Any]]:
    """Group parameters with "lr_scale" = layer_decay ** (depth + 1 - layer), as in BEiT and MAE.

    model: holds a vision transformer with our or timm's names. Layer 0 is all before its blocks,
    layer i the i-th block, layer depth + 1 all after them, and all else in the model, such as
    heads. prefix: of the transformer's names in the model, as "backbone."; "" if it is the model.
    weight_decay: of all but 1-d parameters, class tokens and positions, which have none. Parameters
    that need no gradient are in no group.
    """
    last = len(model.get_submodule(prefix.rstrip(".")).blocks) + 1
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        inner = name.removeprefix(prefix)
        inside = name.startswith(prefix)
        layer = _layer(inner, last) if inside else last
        decays = parameter.ndim > 1 and not (inside and inner in _EMBEDDINGS)
        group = {
            "params": [],
            "weight_decay": weight_decay if decays else 0.0,
            "lr_scale": layer_decay ** (last - layer),
        }
        groups.setdefault((layer, decays), group)["params"].append(parameter)
    return list(groups.values())


def _layer(name: str, last: int) -> int:
    """Return the layer of a transformer's parameter."""
    if name.startswith((*_EMBEDDINGS, "patch_embed.")):
        return 0
    return int(name.split(".")[1]) + 1 if name.startswith("blocks.") else last
