"""Pixio's layout (transformers' PixioModel, its encoder): names of files on the hub, config.json.

They are a ViT's, which `huggingface` reads, but for the names of two norms. transformers has no
decoder of Pixio. Its positions are parameters; ours are fixed, with those of the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fastimae.engine.checkpoint_file import Unfit
from fastimae.interop import huggingface
from fastimae.interop.conversion import Conversion, encoder_of
from fastimae.models import MaskedAutoencoder

NORMS = {"norm1": "layernorm_before", "norm2": "layernorm_after"}
"""Pixio's names on the hub -> ViT's, which newer versions of transformers have in memory."""
_DEFAULTS = {"image_size": 256, "num_attention_heads": 16}
"""Of PixioConfig, where they differ from ViTConfig's."""


def from_mae(weights: Mapping[str, Tensor]) -> Conversion:
    """Convert our names to PixioModel's: the encoder alone, without a classifier."""
    encoder = encoder_of(weights)
    vit = huggingface.from_mae(encoder.weights)
    names = {name: _pixio_name(name) for name in vit.weights}
    theirs = {names[name]: value for name, value in vit.weights.items()}
    renamed = {ours: names[name] for ours, name in vit.renamed.items()}
    return Conversion(theirs, renamed, (*encoder.dropped, *vit.dropped))


def config_of(model: MaskedAutoencoder) -> dict[str, Any]:
    """Return config.json for a model. Raises Unfit, a ValueError, for what Pixio lacks.

    That is images that are not square, and MLPs of a width that is no multiple of the encoder's.
    """
    encoder, width = model.blocks[0], model.pos_embed.shape[-1]
    ratio, rest = divmod(encoder.mlp.fc1.out_features, width)
    for lacks, what in (
        (model.img_size[0] != model.img_size[1], "is for images that are not square"),
        (rest > 0, "has MLPs whose width is no multiple of the encoder's"),
    ):
        if lacks:
            raise Unfit(f"{what}, which Pixio does not support", "the model")
    return {
        "model_type": "pixio",
        "architectures": ["PixioModel"],
        "hidden_size": width,
        "num_hidden_layers": len(model.blocks),
        "num_attention_heads": encoder.attn.num_heads,
        "mlp_ratio": ratio,
        "layer_norm_eps": encoder.norm1.eps,
        "image_size": model.img_size[0],
        "patch_size": model.patch_size,
        "num_channels": model.in_chans,
        "n_cls_tokens": model.class_tokens,
    }


def is_config(config: Mapping[str, Any]) -> bool:
    """Return whether a config.json is of a Pixio."""
    return config.get("model_type") == "pixio"


def settings(config: Mapping[str, Any], processor: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings in config.json and preprocessor_config.json, by our flags' names.

    `drop_path_rate` is not of the weights: --drop_path sets it for a training here, where it rises
    from block to block; in transformers all blocks have the same. Raises Unfit as
    `huggingface.settings`.
    """
    return huggingface.settings({**_DEFAULTS, **config}, processor)


def _pixio_name(name: str) -> str:
    for pixio, vit in NORMS.items():
        name = name.replace(f".{vit}.", f".{pixio}.")
    return name
