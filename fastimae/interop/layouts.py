"""Detection of a state dict's layout, and conversion to ours, which has MAE's names.

A state dict is a mapping of names to tensors; nothing here reads files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from fastimae.engine.checkpoint_file import Unfit
from fastimae.interop import huggingface, imae, timm
from fastimae.interop.conversion import DECODER, Conversion
from fastimae.interop.unsupported_parts import fill_biases, unsupported_part

Layout = Literal["mae", "imae", "timm", "huggingface"]


def detect(weights: Mapping[str, Tensor]) -> Layout:
    """Return the layout of a state dict, by the names of its weights.

    "mae": encoder and decoder; ours and the official full files. "imae": the same with two latent
    heads. "timm": an encoder, with or without a classifier; timm's and the official encoder-only
    and fine-tuned files. "huggingface": ViTMAEModel, ViTMAEForPreTraining, a ViT or a Pixio.
    Raises Unfit, a ValueError, for anything else.
    """
    if huggingface.is_huggingface(weights):
        return "huggingface"
    probes = "1.weight", "1.query"  # linear, attentive
    if any(name in weights for name in probes) and "cls_token" not in weights:
        raise Unfit("is a probe of features, without the encoder: give the encoder's file")
    _require_parts(weights)
    if imae.HEADS[0] in weights:
        return "imae"
    return "mae" if any(name.startswith(DECODER) for name in weights) else "timm"


def to_mae(weights: Mapping[str, Tensor], *, ours: bool = False) -> Conversion:
    """Convert weights of any layout to ours.

    Biases that a model with `qkv_bias=False` lacks are filled with zeros. ours: the weights are
    from our own file and stay unchanged, but for the class tokens of a classifier, which has
    timm's layout. Raises Unfit if `detect` does.
    """
    layout = detect(weights)
    if ours:
        return timm.join_class_tokens(weights)
    layouts = {"huggingface": huggingface, "imae": imae, "timm": timm}
    conversion = layouts[layout].to_mae(weights) if layout in layouts else Conversion(weights)
    _require_parts(conversion.weights)
    return fill_biases(conversion)


def _require_parts(weights: Mapping[str, Tensor]) -> None:
    """Check, by our names, that all parts exist whose shapes determine the sizes, else Unfit."""
    for name in ("cls_token", "pos_embed", "patch_embed.proj.weight"):
        if name not in weights:
            part = unsupported_part(weights)  # as BEiT, which has positions of another kind
            but = f", but {part}" if part else ""
            raise Unfit(f"is not a masked autoencoder: it has no {name}{but}")
    if not any(name.startswith("blocks.") for name in weights):
        raise Unfit("is not a masked autoencoder: it has no blocks")
    shape = tuple(weights["patch_embed.proj.weight"].shape)
    if len(shape) != 4 or shape[2] != shape[3]:
        raise Unfit(f"has no square patches of images: patch_embed.proj.weight is {shape}")
