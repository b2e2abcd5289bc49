"""Hugging Face's ViTMAEModel and ViTMAEForPreTraining: names, and the config.json beside them.

ViT's (`ViTModel`, `ViTForImageClassification`) are read, too: its encoder has the same names.

The names are those of the files on the hub, which transformers reads whatever its version; those
that the modules of transformers 5 have in memory are read too. Query, key and value are apart.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fastimae.engine.files import Unfit
from fastimae.interop.conversion import Conversion
from fastimae.models import MaskedAutoencoder
from fastimae.models.mae import MASK_RATIO

_TOP = {
    "cls_token": "vit.embeddings.cls_token",
    "pos_embed": "vit.embeddings.position_embeddings",
    "patch_embed.proj": "vit.embeddings.patch_embeddings.projection",
    "norm": "vit.layernorm",
    "mask_token": "decoder.mask_token",
    "decoder_embed": "decoder.decoder_embed",
    "decoder_pos_embed": "decoder.decoder_pos_embed",
    "decoder_norm": "decoder.decoder_norm",
    "decoder_pred": "decoder.decoder_pred",
}
_STACKS = {"blocks": "vit.encoder.layer", "decoder_blocks": "decoder.decoder_layers"}
_BLOCK = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
_QKV = tuple(f"attention.attention.{part}" for part in ("query", "key", "value"))

_OUR_TOP = {theirs: ours for ours, theirs in _TOP.items()}
_OUR_BLOCK = {theirs: ours for ours, theirs in _BLOCK.items()} | dict.fromkeys(_QKV, "attn.qkv")
_OUR_STACKS = {theirs: ours for ours, theirs in _STACKS.items()}
# In the memory and the files of transformers 5 -> on the hub.
_NEWER = {
    r"^(embeddings|encoder|layers|layernorm)\.": r"vit.\1.",  # a ViTMAEModel alone
    r"^vit\.layers\.": "vit.encoder.layer.",
    r"^decoder\.decoder_encoder\.layer\.": "decoder.decoder_layers.",  # as 5.24 saves them
    r"\.attention\.q_proj\.": ".attention.attention.query.",
    r"\.attention\.k_proj\.": ".attention.attention.key.",
    r"\.attention\.v_proj\.": ".attention.attention.value.",
    r"\.attention\.o_proj\.": ".attention.output.dense.",
    r"\.mlp\.fc1\.": ".intermediate.dense.",
    r"\.mlp\.fc2\.": ".output.dense.",
    r"^classifier\.": "head.",  # of ViTForImageClassification, to our name
}
# Of ViTModel and ViTForMaskedImageModeling, beside the same encoder.
_WITHOUT_PLACE = re.compile(r"(vit\.)?(pooler\.|embeddings\.mask_token$)|decoder\.0\.")
_LAYER = re.compile(rf"({'|'.join(map(re.escape, _OUR_STACKS))})\.(\d+)\.(.+)\.(weight|bias)")


def is_huggingface(weights: Mapping[str, Tensor]) -> bool:
    """Whether the names are ViTMAEModel's or ViTMAEForPreTraining's."""
    return any(name.endswith("embeddings.patch_embeddings.projection.weight") for name in weights)


def to_mae(weights: Mapping[str, Tensor]) -> Conversion:
    """ViTMAE -> our names; names that are unknown stay as they are.

    Dropped is what a ViT has beside its encoder and nothing of ours: the pooler; the token and the
    convolution of ViTForMaskedImageModeling.
    """
    ours: dict[str, Tensor] = {}
    renamed = {}
    dropped = tuple(name for name in weights if _WITHOUT_PLACE.match(name))
    weights = {name: value for name, value in weights.items() if name not in dropped}
    apart: dict[str, dict[str, Tensor]] = {}
    for name, value in weights.items():
        hub = _hub_name(name)
        renamed[name] = new = _our_name(hub)
        if (match := _LAYER.fullmatch(hub)) and match[3] in _QKV:
            apart.setdefault(new, {})[match[3]] = value
        else:
            ours[new] = value
    for new, parts in apart.items():
        ours[new] = torch.cat([parts[part] for part in _QKV if part in parts])
    renamed = {old: new for old, new in renamed.items() if old != new}
    return Conversion(ours, renamed, dropped)


def from_mae(weights: Mapping[str, Tensor]) -> Conversion:
    """Our names -> ViTMAEForPreTraining, or ViTMAEModel for weights without a decoder."""
    theirs: dict[str, Tensor] = {}
    renamed, dropped = {}, []
    base = "" if "decoder_pred.weight" in weights else "vit."
    for name, value in weights.items():
        new = _hub_names(name)
        if not new:
            dropped.append(name)
            continue
        new = [part.removeprefix(base) for part in new]
        theirs.update(zip(new, value.chunk(len(new)), strict=True))
        renamed[name] = new[0]
    return Conversion(theirs, renamed, tuple(dropped))


def config_of(model: MaskedAutoencoder, mask_ratio: float = MASK_RATIO) -> dict[str, Any]:
    """config.json for a model. Raises Unfit, a ValueError, for images that are not square."""
    if model.img_size[0] != model.img_size[1]:
        raise Unfit("is for images that are not square, which ViTMAE does not take", "the model")
    encoder, decoder = model.blocks[0], model.decoder_blocks[0]
    return {
        "model_type": "vit_mae",
        "hidden_size": model.pos_embed.shape[-1],
        "num_hidden_layers": len(model.blocks),
        "num_attention_heads": encoder.attn.num_heads,
        "intermediate_size": encoder.mlp.fc1.out_features,
        "layer_norm_eps": encoder.norm1.eps,
        "image_size": model.img_size[0],
        "patch_size": model.patch_size,
        "num_channels": model.in_chans,
        "decoder_hidden_size": decoder.attn.proj.in_features,
        "decoder_num_hidden_layers": len(model.decoder_blocks),
        "decoder_num_attention_heads": decoder.attn.num_heads,
        "decoder_intermediate_size": decoder.mlp.fc1.out_features,
        "mask_ratio": mask_ratio,
        "norm_pix_loss": model.norm_pix_loss,
    }


def processor_of(model: MaskedAutoencoder) -> dict[str, Any]:
    """preprocessor_config.json for a model: its image size, mean and std."""
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": dict(zip(("height", "width"), model.img_size, strict=True)),
        "resample": 3,  # bicubic
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(model.mean),
        "image_std": list(model.std),
    }


def knows(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is of a ViTMAE, or of a ViT, whose encoder is the same."""
    return config.get("model_type") in ("vit_mae", "vit")


def settings(config: Mapping[str, Any], processor: Mapping[str, Any]) -> dict[str, Any]:
    """What config.json and preprocessor_config.json say, by our flags' names.

    `layer_norm_eps` is not among them: it is 1e-6 here, as in MAE; ViTMAE's own default, 1e-12,
    moves features by less than 1e-4. Raises Unfit for another activation than erf GELU.
    """
    if config.get("hidden_act", "gelu") != "gelu":
        why = f"computes with hidden_act={config['hidden_act']}, which MAE has not"
        raise Unfit(why, "the model of this config.json")
    size = config.get("image_size", 224)
    of_mae = {
        "decoder_num_heads": config.get("decoder_num_attention_heads", 16),
        "norm_pix_loss": config.get("norm_pix_loss", False),
        "mask_ratio": config.get("mask_ratio", 0.75),
    }
    said = {
        **(of_mae if config["model_type"] == "vit_mae" else {}),
        "input_size": [size] if isinstance(size, int) else list(size),
        "num_heads": config.get("num_attention_heads", 12),
        "mean": processor.get("image_mean"),
        "std": processor.get("image_std"),
    }
    return {name: value for name, value in said.items() if value is not None}


def _hub_name(name: str) -> str:
    for pattern, replacement in _NEWER.items():
        name = re.sub(pattern, replacement, name)
    return name


def _our_name(hub: str) -> str:
    if (match := _LAYER.fullmatch(hub)) and match[3] in _OUR_BLOCK:
        return f"{_OUR_STACKS[match[1]]}.{match[2]}.{_OUR_BLOCK[match[3]]}.{match[4]}"
    stem, _, kind = hub.rpartition(".")
    return _OUR_TOP.get(hub) or (f"{_OUR_TOP[stem]}.{kind}" if stem in _OUR_TOP else hub)


def _hub_names(ours: str) -> list[str]:
    """The hub's name of one of ours; three of them for a packed qkv, none for what has no place."""
    if ours in _TOP:
        return [_TOP[ours]]
    stem, _, kind = ours.rpartition(".")
    if stem in _TOP:
        return [f"{_TOP[stem]}.{kind}"]
    stack, number, block = ([*stem.split(".", 2), "", ""])[:3]
    if stack not in _STACKS:
        return []
    names = _QKV if block == "attn.qkv" else [_BLOCK[block]] if block in _BLOCK else []
    return [f"{_STACKS[stack]}.{number}.{name}.{kind}" for name in names]
