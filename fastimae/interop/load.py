"""`load_model`: a masked autoencoder from any supported file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fastimae.engine.checkpoint import CheckpointError, load_weights
from fastimae.interop.adapt import adapt_with_facts, report_changes
from fastimae.interop.architecture import model_arguments
from fastimae.interop.conversion import DECODER
from fastimae.interop.facts import (
    SETTINGS,
    Fact,
    describes_file,
    determine_facts,
    report_assumptions,
)
from fastimae.interop.finetuned import HEAD, add_fc_norm, without_classifier
from fastimae.interop.hints import IN_PYTHON, Hints
from fastimae.interop.open_checkpoint import Checkpoint, open_checkpoint, refuse_unsupported_parts
from fastimae.log import log
from fastimae.models import MaskedAutoencoder


def load_model(
    path: str | Path,
    *,
    name: str | None = None,
    num_heads: int | None = None,
    decoder_num_heads: int | None = None,
    img_size: int | tuple[int, ...] | None = None,
    in_chans: int | None = None,
    use_ema: bool = False,
    encoder_only: bool = False,
    allow_partial: bool = False,
    device: torch.device | str = "cpu",
    hints: Hints = IN_PYTHON,
    **overrides: Any,
) -> MaskedAutoencoder:
    """Load the model in a checkpoint of FastIMAE, MAE, i-MAE, timm or Hugging Face.

    path: a .pth, a .safetensors, or a folder with Hugging Face's config.json. device: where the
    model goes. name: the model's name (`mae_vit_base_patch16`). num_heads, decoder_num_heads:
    attention heads. img_size, in_chans: of the images that the model is to take, in pixels (a side
    or height and width) and channels; if the file's are others, its weights are adapted, and a line
    says how: see `adapt`. overrides: further arguments of `MaskedAutoencoder`. All of these win
    over the file, except that heads of our own files cannot be changed (CheckpointError). Sizes,
    norm_pix_loss, mean and std come from the file as far as it has them. The rest is assumed, and a
    warning says so. The source of each setting is in the model's `facts`: {setting: Fact}; `args`
    are the file's settings, `adapted` is what was done to which weight, and `fresh_decoder` is true
    if the decoder is not the file's. hints: what the warning suggests.

    use_ema: load the averaged weights (EMA) if the file has both. encoder_only: for features, so
    the file need not have a decoder, or one that fits ours; the model's is fresh then. A classifier
    is dropped; if it was trained on the mean of the patches, after `fc_norm`, the model has that
    instead of `norm`, to be applied to a mean of its latents. Without encoder_only such files are
    refused: pictures of a fresh decoder mean nothing. allow_partial: list missing and unexpected
    keys and continue.

    Raises CheckpointError if the file holds no such model, or with a list of keys that do not fit.
    """
    checkpoint = open_checkpoint(Path(path), use_ema=use_ema, hints=hints)
    if encoder_only:
        checkpoint = without_classifier(checkpoint)
    given = {**overrides, "num_heads": num_heads, "decoder_num_heads": decoder_num_heads}
    of_file = img_size if describes_file(checkpoint, img_size) else None
    facts = determine_facts(checkpoint, {**given, "input_size": of_file}, name)
    adapted, facts = adapt_with_facts(checkpoint, facts, img_size, in_chans)
    if adapted.fresh and not (encoder_only or allow_partial):
        raise CheckpointError(
            f"{checkpoint.path} reconstructs images of other channels than {in_chans}"
            f"{hints.suggest('encoder_only', 'loads it for features')}"
        )
    model = _build(
        adapted.checkpoint, facts, name, encoder_only=encoder_only, allow_partial=allow_partial,
        overrides=given,
    )  # fmt: skip
    model.adapted = adapted.changes
    report_changes(checkpoint, adapted.changes)
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
    """Build the model of an opened checkpoint and load its weights.

    Arguments as `load_model`, but nothing is adapted: img_size says what the file's is.
    """
    facts = determine_facts(checkpoint, {**given, "input_size": img_size}, name)
    return _build(
        checkpoint, facts, name, encoder_only=encoder_only, allow_partial=allow_partial,
        overrides=given,
    )  # fmt: skip


def _build(
    checkpoint: Checkpoint,
    facts: Mapping[str, Fact],
    name: str | None,
    *,
    encoder_only: bool,
    allow_partial: bool,
    overrides: Mapping[str, Any],
) -> MaskedAutoencoder:
    path, hints = checkpoint.path, checkpoint.hints
    if not (encoder_only or allow_partial) and "decoder_pred.weight" not in checkpoint.weights:
        raise CheckpointError(
            f"{path} has no decoder, only an encoder: it gives features but no reconstructions"
            f"{hints.suggest('encoder_only', 'loads it for features')} "
            "(docs/checkpoints.md lists files that have one)"
        )
    if not encoder_only:
        refuse_unsupported_parts(checkpoint, decoder=True)
    if encoder_only:
        checkpoint = checkpoint.without(HEAD)
        if why := why_decoder_misfits(checkpoint, facts, name):
            log.warning("%s: its decoder is dropped: %s", path, why)
            checkpoint = checkpoint.without(*DECODER)
    arguments = model_arguments(checkpoint, facts, name)
    if not encoder_only and (why := _unknown_heads(checkpoint, facts)):
        raise CheckpointError(f"{path}: {why}: give {hints.to_set('decoder_num_heads')}")
    overrides = {key: value for key, value in overrides.items() if key not in SETTINGS}
    model, weights = build(arguments | overrides, path), checkpoint.weights
    if "fc_norm.weight" in weights:
        add_fc_norm(model, keep_norm="norm.weight" in weights)
    model.facts, model.args = facts, checkpoint.args
    model.fresh_decoder = "decoder_pred.weight" not in weights
    load_weights(
        model, weights, path, allow_partial=allow_partial,
        optional=DECODER if encoder_only else (),
        partial_hint=hints.suggest("allow_partial", "loads it anyway")
        or f"; {hints.to_set('allow_partial')} writes a file without the unexpected ones",
    )  # fmt: skip
    report_assumptions(checkpoint, facts, decoder=not encoder_only)
    return model


def build(arguments: Mapping[str, Any], path: Path) -> MaskedAutoencoder:
    """Build the model with fresh weights. Raises CheckpointError if its sizes contradict."""
    try:
        return MaskedAutoencoder(**arguments)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _unknown_heads(checkpoint: Checkpoint, facts: Mapping[str, Fact]) -> str:
    """Describe why the file's decoder cannot be used if its heads are unknown, else ""."""
    width = checkpoint.widths.get("decoder_num_heads")
    if width is None or "decoder_num_heads" in facts:
        return ""
    return f"the attention heads of its decoder's width of {width} are unknown"


def why_decoder_misfits(checkpoint: Checkpoint, facts: Mapping[str, Fact], name: str | None) -> str:
    """Describe why the file's decoder cannot be loaded into ours, "" if it can."""
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
    misfits = [key for key in theirs if key not in own or tuple(own[key].shape) != shapes[key]]
    return f"ours has no {misfits[0]} of that size" if misfits else ""
