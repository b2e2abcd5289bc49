"""One function that loads a masked autoencoder from any file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fastimae.engine.checkpoint import CheckpointError, load_weights
from fastimae.interop.conversion import DECODER
from fastimae.interop.facts import SETTINGS, Fact, facts_of, tell
from fastimae.interop.finetuned import HEAD, put_fc_norm, without_classifier
from fastimae.interop.hints import IN_PYTHON, Hints
from fastimae.interop.open import Checkpoint, open_checkpoint, refuse_parts
from fastimae.interop.sizes import model_arguments
from fastimae.log import log
from fastimae.models import MaskedAutoencoder


def load_model(
    path: Path,
    *,
    name: str | None = None,
    num_heads: int | None = None,
    decoder_num_heads: int | None = None,
    img_size: int | tuple[int, ...] | None = None,
    use_ema: bool = False,
    encoder_only: bool = False,
    allow_partial: bool = False,
    device: torch.device | str = "cpu",
    hints: Hints = IN_PYTHON,
    **overrides: Any,
) -> MaskedAutoencoder:
    """The model in a checkpoint: ours, MAE's, i-MAE's, timm's or Hugging Face's.

    path: a .pth, a .safetensors, or a folder with Hugging Face's config.json. name: of the model
    (`mae_vit_base_patch16`). num_heads, decoder_num_heads: attention heads. img_size:
    pixels, a side or (height, width), with as many patches as the file has positions. Like
    overrides, which are further arguments of `MaskedAutoencoder`, they win over what the file says
    (but for heads and size of our own files: CheckpointError). Sizes, norm_pix_loss, mean and std
    are the file's as far as it tells. The rest is assumed, which a warning says; who told what is
    in the model's `facts`: {setting: Fact}; `args` are the file's settings, and `fresh_decoder` is
    true where its decoder is not the file's. hints: how the warning's reader changes that.

    use_ema: take the averaged weights (EMA) that the file holds beside those of training.
    encoder_only: the caller wants features, so a file without a decoder will do, as will one whose
    decoder fits nothing of ours (the model's is fresh then). A classifier is left out; where it
    was trained on the mean of the patches, under `fc_norm`, the model has that in place of `norm`,
    to be put on a mean of its latents. Otherwise such files are refused: pictures of a fresh
    decoder mean nothing. allow_partial: list missing and unexpected keys and go on.

    Raises CheckpointError where the file holds no such model, or lists the keys that do not fit.
    """
    checkpoint = open_checkpoint(Path(path), use_ema=use_ema, hints=hints)
    if encoder_only:
        checkpoint = without_classifier(checkpoint)
    model = build_model(
        checkpoint, name, encoder_only=encoder_only, allow_partial=allow_partial,
        img_size=img_size, num_heads=num_heads, decoder_num_heads=decoder_num_heads, **overrides,
    )  # fmt: skip
    return model.to(device)


def build_model(
    checkpoint: Checkpoint,
    name: str | None = None,
    *,
    encoder_only: bool = False,
    allow_partial: bool = False,
    img_size: int | tuple[int, ...] | None = None,
    **given: Any,
) -> MaskedAutoencoder:
    """The model that an opened checkpoint's weights are of; as `load_model`."""
    path, hints = checkpoint.path, checkpoint.hints
    if not (encoder_only or allow_partial) and "decoder_pred.weight" not in checkpoint.weights:
        raise CheckpointError(
            f"{path} has no decoder, only an encoder: it gives features and reconstructs nothing "
            "(docs/checkpoints.md says which file does)"
        )
    if not encoder_only:
        refuse_parts(checkpoint, decoder=True)
    facts = facts_of(checkpoint, {**given, "input_size": img_size}, name)
    if encoder_only:
        checkpoint = checkpoint.without(HEAD)
        if why := decoder_misfit(checkpoint, facts, name):
            log.warning("%s: its decoder is left out: %s", path, why)
            checkpoint = checkpoint.without(*DECODER)
    arguments = model_arguments(checkpoint, facts, name)
    if not encoder_only and (why := _unknown_heads(checkpoint, facts)):
        raise CheckpointError(f"{path}: {why}: give {hints.to_set('decoder_num_heads')}")
    others = {key: value for key, value in given.items() if key not in SETTINGS}
    model, weights = build(arguments | others, path), checkpoint.weights
    if "fc_norm.weight" in weights:
        put_fc_norm(model, keep_norm="norm.weight" in weights)
    model.facts, model.args = facts, checkpoint.args
    model.fresh_decoder = "decoder_pred.weight" not in weights
    load_weights(
        model, weights, path, allow_partial=allow_partial,
        optional=DECODER if encoder_only else (),
        partial_hint=hints.if_any("allow_partial", "loads it all the same")
        or f"; {hints.to_set('allow_partial')} writes a file without unexpected ones",
    )  # fmt: skip
    tell(checkpoint, facts, decoder=not encoder_only)
    return model


def build(arguments: Mapping[str, Any], path: Path) -> MaskedAutoencoder:
    """The model with fresh weights. Raises CheckpointError where its sizes do not fit together."""
    try:
        return MaskedAutoencoder(**arguments)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _unknown_heads(checkpoint: Checkpoint, facts: Mapping[str, Fact]) -> str:
    """Why a file's decoder cannot be used: nobody tells its heads; "" where somebody does."""
    width = checkpoint.widths.get("decoder_num_heads")
    if width is None or "decoder_num_heads" in facts:
        return ""
    return f"nothing tells the attention heads of its decoder's width of {width}"


def decoder_misfit(checkpoint: Checkpoint, facts: Mapping[str, Fact], name: str | None) -> str:
    """Why the file's decoder is not one of ours, which an encoder's use must not mind; or ""."""
    shapes = checkpoint.shapes
    theirs = [key for key in shapes if key.startswith(DECODER)]
    if not theirs:
        return ""
    if why := _unknown_heads(checkpoint, facts):
        return why
    try:
        with torch.device("meta"):
            ours = MaskedAutoencoder(**model_arguments(checkpoint, facts, name))
    except ValueError as error:
        return str(error)
    own = ours.state_dict()
    odd = [key for key in theirs if key not in own or tuple(own[key].shape) != shapes[key]]
    return f"{odd[0]} is no part of ours in that size" if odd else ""
