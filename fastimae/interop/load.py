"""One function that loads a masked autoencoder from any file."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastimae.engine.checkpoint import CheckpointError, load_weights
from fastimae.interop import layouts
from fastimae.interop.conversion import DECODER, Conversion
from fastimae.interop.facts import SETTINGS, Fact, facts_of, shapes_of, tell, widths
from fastimae.interop.files import Checkpoint, introduce, read
from fastimae.interop.finetuned import HEAD, put_fc_norm, without_classifier
from fastimae.interop.hints import IN_PYTHON, Hints
from fastimae.interop.parts import foreign_part
from fastimae.interop.sizes import model_arguments
from fastimae.models import MaskedAutoencoder

log = logging.getLogger("fastimae")


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
    heads = {"num_heads": num_heads, "decoder_num_heads": decoder_num_heads}
    checkpoint, ours = open_checkpoint(Path(path), use_ema=use_ema, hints=hints)
    weights = ours.weights
    if encoder_only:
        weights = without_classifier(weights, checkpoint.path)
    model = build_model(
        checkpoint, weights, name, encoder_only=encoder_only,
        allow_partial=allow_partial, hints=hints, img_size=img_size, **heads, **overrides,
    )  # fmt: skip
    return model.to(device)


def open_checkpoint(
    path: Path, *, use_ema: bool = False, hints: Hints = IN_PYTHON
) -> tuple[Checkpoint, Conversion]:
    """A checkpoint, introduced to the user, and its weights under our names.

    use_ema, hints: as `load_model`. Raises CheckpointError for what is none, and for an encoder
    with parts that ours has not.
    """
    checkpoint = read(path, use_ema=use_ema, hints=hints)
    introduce(checkpoint, hints)
    ours = _our_weights(checkpoint)
    _refuse_parts(checkpoint.path, ours.weights)
    for name, what in ours.filled.items():
        log.info("%s: filled %s with %s", checkpoint.path, name, what)
    return checkpoint, ours


def _refuse_parts(path: Path, weights: Mapping[str, Tensor], *, decoder: bool = False) -> None:
    """Raise CheckpointError for parts of a transformer that ours cannot do without."""
    if part := foreign_part(weights, decoder=decoder):
        raise CheckpointError(
            f"{path} has {part}: ours has none, and without that its other weights compute "
            "something else"
        )


def _our_weights(checkpoint: Checkpoint) -> Conversion:
    """Raises CheckpointError for an unknown layout."""
    try:
        layouts.detect(checkpoint.weights)
        if checkpoint.ours:
            return Conversion(checkpoint.weights)
        return layouts.to_mae(checkpoint.weights)
    except ValueError as error:
        raise CheckpointError(f"{checkpoint.path} {error}") from error


def build_model(
    checkpoint: Checkpoint,
    weights: Mapping[str, Tensor],
    name: str | None = None,
    *,
    encoder_only: bool = False,
    allow_partial: bool = False,
    hints: Hints = IN_PYTHON,
    img_size: int | tuple[int, ...] | None = None,
    **given: Any,
) -> MaskedAutoencoder:
    """The model that a checkpoint's weights, given under our names, are of; as `load_model`."""
    path = checkpoint.path
    if not (encoder_only or allow_partial) and "decoder_pred.weight" not in weights:
        raise CheckpointError(
            f"{path} has no decoder, only an encoder: it gives features and reconstructs nothing "
            "(docs/checkpoints.md says which file does)"
        )
    if not encoder_only:
        _refuse_parts(path, weights, decoder=True)
    shapes = shapes_of(weights)
    facts = facts_of(checkpoint, shapes, {**given, "input_size": img_size}, name, hints)
    if encoder_only:
        weights = {key: value for key, value in weights.items() if not key.startswith(HEAD)}
        if why := decoder_misfit(checkpoint, shapes, facts, name, hints):
            log.warning("%s: its decoder is left out: %s", path, why)
            weights = {key: w for key, w in weights.items() if not key.startswith(DECODER)}
            shapes = {key: shape for key, shape in shapes.items() if not key.startswith(DECODER)}
    arguments = model_arguments(checkpoint, shapes, facts, name, hints)
    if not encoder_only and (why := _unknown_heads(shapes, facts)):
        raise CheckpointError(f"{path}: {why}: give {hints.to_set('decoder_num_heads')}")
    others = {key: value for key, value in given.items() if key not in SETTINGS}
    model = build(arguments | others, path)
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
    tell(path, facts, hints, decoder=not encoder_only)
    return model


def build(arguments: Mapping[str, Any], path: Path) -> MaskedAutoencoder:
    """The model with fresh weights. Raises CheckpointError where its sizes do not fit together."""
    try:
        return MaskedAutoencoder(**arguments)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _unknown_heads(shapes: Mapping[str, tuple], facts: Mapping[str, Fact]) -> str:
    """Why a file's decoder cannot be used: nobody tells its heads; "" where somebody does."""
    width = widths(shapes).get("decoder_num_heads")
    if width is None or "decoder_num_heads" in facts:
        return ""
    return f"nothing tells the attention heads of its decoder's width of {width}"


def decoder_misfit(
    checkpoint: Checkpoint,
    shapes: Mapping[str, tuple],
    facts: Mapping[str, Fact],
    name: str | None,
    hints: Hints,
) -> str:
    """Why the file's decoder is not one of ours, which an encoder's use must not mind; or ""."""
    theirs = [key for key in shapes if key.startswith(DECODER)]
    if not theirs:
        return ""
    if why := _unknown_heads(shapes, facts):
        return why
    try:
        with torch.device("meta"):
            ours = MaskedAutoencoder(**model_arguments(checkpoint, shapes, facts, name, hints))
    except ValueError as error:
        return str(error)
    own = ours.state_dict()
    odd = [key for key in theirs if key not in own or tuple(own[key].shape) != shapes[key]]
    return f"{odd[0]} is no part of ours in that size" if odd else ""
