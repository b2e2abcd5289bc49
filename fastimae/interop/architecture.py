"""The architecture of a checkpoint's model, from its settings, its name and its shapes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastimae.engine.checkpoint import CheckpointError
from fastimae.engine.checkpoint_file import CONVERTED_WITH
from fastimae.interop import imae
from fastimae.interop.facts import ASSUMED, Fact
from fastimae.interop.image_size import unknown_size_error
from fastimae.interop.model_names import named_sizes
from fastimae.interop.open_checkpoint import Checkpoint
from fastimae.interop.timm import CLASSIFIED
from fastimae.models import MaskedAutoencoder
from fastimae.models.names import DECODER, SIZES
from fastimae.settings import lacks_heads

# Settings of a run that its checkpoint keeps in another layout: what shaped the weights.
_TRAINING_SETTINGS = (
    *("mask_ratio", "mask_patch_size", "predict_ratio", "epochs"),
    *("mix_beta", "mix_lambda", "mix_per"),
    *("same_class_ratio", "reciprocal_pairs", "targets", "teacher_view", "distill_weight"),
    "disentangle",
    *("crop", "crop_ratio", "value_range", CONVERTED_WITH, CLASSIFIED),
)
_OF_CROSS = "decoder_blocks.0.attn.kv.weight"
"""A weight that a cross decoder has, and MAE's has not."""


def model_arguments(
    checkpoint: Checkpoint, facts: Mapping[str, Fact], name: str | None
) -> dict[str, Any]:
    """Return the keyword arguments of `MaskedAutoencoder` for a checkpoint, in our names.

    facts: see `determine_facts`. name: the model's name, if the user gave it. A decoder with an
    unknown number of heads gets 1, which fits any width. Raises CheckpointError if the number of
    the encoder's heads, or the size of its images, is unknown.
    """
    shapes, hints, width = checkpoint.shapes, checkpoint.hints, checkpoint.widths["num_heads"]
    _, in_chans, _, patch_size = shapes["patch_embed.proj.weight"]
    if "num_heads" not in facts:
        raise CheckpointError(
            f"{checkpoint.path}: the attention heads of its width of {width} are unknown: "
            f"give {hints.to_set('num_heads')}, or {hints.to_set('model')} if it has a known name"
        )
    if "input_size" not in facts:
        raise unknown_size_error(checkpoint)
    sizes = named_sizes(name) if name else checkpoint.named_sizes
    sizes = sizes or {**DECODER, **next((s for s in SIZES.values() if s["embed_dim"] == width), {})}
    set_below = ("decoder_num_heads", "input_size")
    sizes |= {setting: fact.value for setting, fact in facts.items() if setting not in set_below}
    sizes |= {"embed_dim": width, "patch_size": patch_size, "in_chans": in_chans}
    sizes |= {"depth": depth(shapes, "blocks."), "class_tokens": shapes["cls_token"][1]}
    if "blocks.0.mlp.fc1.weight" in shapes:
        sizes["mlp_ratio"] = mlp_ratio(shapes["blocks.0.mlp.fc1.weight"][0], width)
    if decoder := checkpoint.widths.get("decoder_num_heads"):
        sizes["decoder_embed_dim"] = decoder
        sizes["decoder_num_heads"] = facts.get("decoder_num_heads", Fact(1, "assumed")).value
        sizes["decoder_depth"] = depth(shapes, "decoder_blocks.") or 1
        sizes["decoder_attention"] = "cross" if _OF_CROSS in shapes else "self"
        sizes["weighted_feature_maps"] = "decoder_map_weights" in shapes
    if imae.HEADS[0] in shapes:
        sizes |= {"heads": 2, "head_space": imae.head_space(shapes)}
    return sizes | {"img_size": facts["input_size"].value}


def mlp_ratio(hidden: int, width: int) -> float:
    """Return the ratio with int(width * ratio) == hidden; their quotient may round below it."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else math.nextafter(ratio, math.inf)


def name_of(model: MaskedAutoencoder) -> str | None:
    """Return the name of a model with this encoder's width, heads and patches; None if none has."""
    width, heads = model.pos_embed.shape[-1], model.blocks[0].attn.num_heads
    for size, sizes in SIZES.items():
        if (sizes["embed_dim"], sizes["num_heads"]) == (width, heads):
            return f"mae_vit_{size}_patch{model.patch_size}"
    return None


def settings_of(model: MaskedAutoencoder, args: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that our checkpoints hold about a model and its training, by flag name.

    model: as `load_model` returns it. args: settings of the run. Those that shaped the weights are
    kept; paths are not, except for the teacher's file name. Assumed settings are listed as such, so
    that they are reported again when the file is read.
    """
    settings = {key: args[key] for key in _TRAINING_SETTINGS if key in args}
    if args.get("teacher"):
        settings["teacher"] = Path(args["teacher"]).name
    if assumed := [key for key, fact in model.facts.items() if fact.source == "assumed"]:
        settings[ASSUMED] = assumed
    if not model.fresh_decoder:
        decoder = model.decoder_blocks[0].attn
        settings["decoder_embed_dim"] = decoder.proj.in_features
        settings["decoder_depth"] = len(model.decoder_blocks)
        settings["decoder_num_heads"] = decoder.num_heads
        settings["decoder_attention"] = model.decoder_attention
        settings["weighted_feature_maps"] = model.weighted_feature_maps
    return settings | {
        "model": name_of(model),
        "num_heads": model.blocks[0].attn.num_heads,
        "objective": "imae" if model.heads == 2 or lacks_heads(args) else "mae",
        "head_space": model.head_space,
        "input_size": list(model.img_size),
        "in_chans": model.in_chans,
        "class_tokens": model.class_tokens,
        "mean": list(model.mean),
        "std": list(model.std),
        "norm_pix_loss": model.norm_pix_loss,
    }


def depth(shapes: Mapping[str, Any], prefix: str) -> int:
    """Return the number of blocks whose names begin with `prefix`."""
    pattern = re.compile(re.escape(prefix) + r"(\d+)\.")
    return len({match[1] for key in shapes if (match := pattern.match(key))})
