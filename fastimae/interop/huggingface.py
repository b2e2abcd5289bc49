"""Hugging Face's layout (ViTMAEModel, ViTMAEForPreTraining): weight names and config.json.

Files of ViT (`ViTModel`, `ViTForImageClassification`) are read, too: the encoder has the same
names. We write the names of files on the hub, which every version of transformers reads; those
that transformers 5 uses in memory are read, too. Query, key and value are separate weights.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fastimae.engine.checkpoint_file import Unfit
from fastimae.interop.conversion import Conversion
from fastimae.models import MaskedAutoencoder
from fastimae.models.settings import MASK_RATIO

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
# Names in memory and in files of transformers 5 -> names on the hub.
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
    r"\.norm1\.": ".layernorm_before.",  # of Pixio
    r"\.norm2\.": ".layernorm_after.",
}
# What ViTModel and ViTForMaskedImageModeling have beside the same encoder.
_UNUSED = re.compile(r"(vit\.)?(pooler\.|embeddings\.mask_token$)|decoder\.0\.")
_LAYER = re.compile(rf"({'|'.join(map(re.escape, _OUR_STACKS))})\.(\d+)\.(.+)\.(weight|bias)")


def is_huggingface(weights: Mapping[str, Tensor]) -> bool:
    """Return whether these are the names of ViTMAEModel, ViTMAEForPreTraining or a ViT."""
    return any(name.endswith("embeddings.patch_embeddings.projection.weight") for name in weights)


def to_mae(weights: Mapping[str, Tensor]) -> Conversion:
    """Convert ViTMAE's names to ours; unknown names stay as they are.

    Parts of a ViT without a counterpart are dropped: the pooler; the token and the convolution of
    ViTForMaskedImageModeling.
    """
    ours: dict[str, Tensor] = {}
    renamed = {}
    dropped = tuple(name for name in weights if _UNUSED.match(name))
    weights = {name: value for name, value in weights.items() if name not in dropped}
    separate: dict[str, dict[str, Tensor]] = {}
    for name, value in weights.items():
        hub = _hub_name(name)
        renamed[name] = new = _our_name(hub)
        if (match := _LAYER.fullmatch(hub)) and match[3] in _QKV:
            separate.setdefault(new, {})[match[3]] = value
        else:
            ours[new] = value
    for new, parts in separate.items():
        ours[new] = torch.cat([parts[part] for part in _QKV if part in parts])
    renamed = {old: new for old, new in renamed.items() if old != new}
    return Conversion(ours, renamed, dropped)


def from_mae(weights: Mapping[str, Tensor]) -> Conversion:
    """Convert our names to ViTMAEForPreTraining's, or ViTMAEModel's if there is no decoder."""
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
    """Return config.json for a model. Raises Unfit, a ValueError, for non-square images."""
    if model.img_size[0] != model.img_size[1]:
        raise Unfit("is for images that are not square, which ViTMAE does not support", "the model")
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
    """Return preprocessor_config.json for a model: its image size, mean and std."""
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


def is_config(config: Mapping[str, Any]) -> bool:
    """Return whether a config.json is of a ViTMAE, or of a ViT, whose encoder is the same."""
    return config.get("model_type") in ("vit_mae", "vit")


def settings(config: Mapping[str, Any], processor: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings in config.json and preprocessor_config.json, by our flags' names.

    `layer_norm_eps` is ignored: it is 1e-6 here, as in MAE; ViTMAE's default, 1e-12, moves features
    by less than 1e-4. Raises Unfit for another activation than exact (erf) GELU.
    """
    if config.get("hidden_act", "gelu") != "gelu":
        why = f"computes with hidden_act={config['hidden_act']}, which MAE lacks"
        raise Unfit(why, "the model of this config.json")
    size = config.get("image_size", 224)
    mae_settings = {
        "decoder_num_heads": config.get("decoder_num_attention_heads", 16),
        "norm_pix_loss": config.get("norm_pix_loss", False),
        "mask_ratio": config.get("mask_ratio", 0.75),
    }
    stated = {
        **(mae_settings if config["model_type"] == "vit_mae" else {}),
        "input_size": [size] if isinstance(size, int) else list(size),
        "num_heads": config.get("num_attention_heads", 12),
        "mean": processor.get("image_mean"),
        "std": processor.get("image_std"),
    }
    return {name: value for name, value in stated.items() if value is not None}


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
    """Return the hub's names for ours: three for a packed qkv, none without a counterpart."""
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
