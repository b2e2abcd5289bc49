"""A classifier from a pre-trained encoder: timm's vision transformer with our weights.

B = batch, C, H, W = channels, height, width.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from timm.layers import resample_abs_pos_embed
from timm.models import VisionTransformer
from torch import Tensor, nn

from fastimae.interop.architecture import mlp_ratio
from fastimae.interop.finetuned import classifies_mean, describe, is_probe
from fastimae.interop.load import build_model
from fastimae.interop.open_checkpoint import open_checkpoint
from fastimae.interop.timm import CLASSIFIED, split_class_tokens
from fastimae.log import log
from fastimae.models import MaskedAutoencoder
from fastimae.models.settings import ModelSettings
from fastimae.models.vit import LAYER_NORM_EPS
from fastimae.settings import ConfigError

HEAD_STD = 2e-5
"""MAE's, so that the first logits are almost equal."""
_NOT_ENCODER = ("decoder", "mask_token")


def build_classifier(
    encoder: MaskedAutoencoder,
    classes: int,
    *,
    global_pool: bool,
    img_size: tuple[int, int] | None = None,
    drop_path: float = ModelSettings.drop_path,
) -> VisionTransformer:
    """Build a classifier from an encoder: float [B, C, H, W] normalised -> [B, classes].

    global_pool: classify the mean of the patches after `fc_norm`, which replaces the encoder's last
    norm and is fresh unless the encoder was fine-tuned with one. Else classify the class token
    after the last norm, which such an encoder lacks. img_size: (height, width); if it differs from
    the encoder's, positions are resized, fixed ones too, as in MAE's code. They are trained. Raises
    ValueError if patches do not fill the image, the norm is missing, or there are several class
    tokens.
    """
    img_size, patch = img_size or encoder.img_size, encoder.patch_size
    if img_size[0] % patch or img_size[1] % patch:
        raise ValueError(
            f"--input_size {img_size[0]}x{img_size[1]} is not a multiple of the patch size {patch}"
        )
    if encoder.class_tokens > 1 and not global_pool:
        raise ValueError(
            f"timm classifies one class token, this model has {encoder.class_tokens}: leave out "
            "--cls_token and --no_global_pool"
        )
    model = VisionTransformer(
        img_size=img_size,
        patch_size=patch,
        in_chans=encoder.in_chans,
        num_classes=classes,
        global_pool="avg" if global_pool else "token",
        reg_tokens=encoder.class_tokens - 1,
        embed_dim=encoder.pos_embed.shape[-1],
        depth=len(encoder.blocks),
        num_heads=encoder.blocks[0].attn.num_heads,
        mlp_ratio=mlp_ratio(encoder.blocks[0].mlp.fc1.out_features, encoder.pos_embed.shape[-1]),
        norm_layer=functools.partial(nn.LayerNorm, eps=LAYER_NORM_EPS),
        drop_path_rate=drop_path,
    )
    _load_encoder(model, encoder)
    nn.init.trunc_normal_(model.head.weight, std=HEAD_STD)
    nn.init.zeros_(model.head.bias)
    return model


def _load_encoder(model: VisionTransformer, encoder: MaskedAutoencoder) -> None:
    """Copy the encoder's weights, and check that only the expected ones stay fresh."""
    weights = {k: v for k, v in encoder.state_dict().items() if not k.startswith(_NOT_ENCODER)}
    weights = split_class_tokens(weights)
    grid = model.patch_embed.grid_size
    if grid != encoder.grid:
        log.info("pos_embed resized for images of %d x %d pixels", *model.patch_embed.img_size)
        weights["pos_embed"] = resample_abs_pos_embed(
            weights["pos_embed"],
            new_size=list(grid),
            old_size=list(encoder.grid),
            num_prefix_tokens=encoder.class_tokens,
        )
    fresh = {"head.weight", "head.bias"}
    if model.global_pool == "avg":
        fresh |= {"fc_norm.weight", "fc_norm.bias"} - weights.keys()
        weights = {name: value for name, value in weights.items() if not name.startswith("norm.")}
    elif "norm.weight" not in weights:
        raise ValueError(
            "the checkpoint was fine-tuned on the mean of its patches, and has no norm for its "
            "class token: leave out --cls_token and --no_global_pool"
        )
    result = model.load_state_dict(weights, strict=False)
    if set(result.missing_keys) != fresh or result.unexpected_keys:
        raise RuntimeError(f"timm's vision transformer has other parts than ours: {result}")


def load_classifier(path: Path, **of_model: Any) -> tuple[MaskedAutoencoder, dict[str, Tensor]]:
    """Load the encoder in a classifier's file, and all of its weights under timm's names.

    The file is ours, or has timm's names, as MAE's has. of_model: the user's flags for it, as
    `load_model` takes them; nothing is adapted. Raises CheckpointError, and ConfigError if it is no
    classifier.
    """
    of_file = {"use_ema": of_model.pop("use_ema", False), "hints": of_model.pop("hints")}
    of_model.pop("in_chans", None)
    checkpoint = open_checkpoint(path, **of_file)
    weights = dict(checkpoint.weights)
    if is_probe(weights):
        raise ConfigError(
            f"--resume {path} is {describe(weights)}, no fine-tuned classifier: give it as "
            "--checkpoint, for its encoder's features; fastimae-eval linear trains such a probe"
        )
    if "head.bias" not in weights:
        raise ConfigError(f"--resume {path} is not a classifier: fine-tune one first")
    if checkpoint.args.get(CLASSIFIED) == "avg" and not classifies_mean(weights):
        raise ConfigError(
            f"--resume {path} is a classifier of the mean of normalised latents, which has no "
            "fc_norm: it cannot be tested here; give it as --checkpoint to fine-tune it"
        )
    log.info("%s: %s; all of it is loaded", path, describe(weights))
    return build_model(checkpoint, encoder_only=True, **of_model), weights


def load_head(model: VisionTransformer, weights: Mapping[str, Tensor]) -> None:
    """Copy a classifier's last layer."""
    kinds = ("weight", "bias")
    model.head.load_state_dict({kind: weights[f"head.{kind}"] for kind in kinds})


def classes_of(weights: dict[str, torch.Tensor]) -> int:
    """Return the number of classes of a classifier's weights."""
    return len(weights["head.bias"])
