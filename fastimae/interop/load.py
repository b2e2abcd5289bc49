"""One function that loads a masked autoencoder from any file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastimae.engine.checkpoint import CheckpointError, load_weights
from fastimae.interop import layouts
from fastimae.interop.conversion import CLASSIFIER, DECODER, Conversion
from fastimae.interop.files import Checkpoint, read, say_licence
from fastimae.interop.sizes import model_arguments
from fastimae.models import MaskedAutoencoder


def load_model(
    path: Path,
    *,
    name: str | None = None,
    encoder_only: bool = False,
    allow_partial: bool = False,
    device: torch.device | str = "cpu",
    **overrides: Any,
) -> MaskedAutoencoder:
    """The model in a checkpoint: ours, MAE's, i-MAE's, timm's or Hugging Face's.

    path: a .pth, a .safetensors, or a folder with Hugging Face's config.json. name: of the model
    (`mae_vit_base_patch16`), for widths that do not tell it. overrides: arguments of
    `MaskedAutoencoder` that win over what the file says. Sizes, image size, norm_pix_loss, mean
    and std are the file's as far as it tells.

    encoder_only: the caller wants features, so a file without a decoder will do (its decoder is
    then fresh), and a classifier is left out. Otherwise such files are refused: pictures of a
    fresh decoder mean nothing. allow_partial: list missing and unexpected keys and go on.

    Raises CheckpointError where the file holds no such model, or lists the keys that do not fit.
    """
    checkpoint = read(Path(path))
    say_licence(checkpoint)
    weights = our_weights(checkpoint).weights
    if not (encoder_only or allow_partial) and "decoder_pred.weight" not in weights:
        raise CheckpointError(
            f"{path} has no decoder, only an encoder: it gives features and reconstructs nothing "
            "(docs/checkpoints.md says which file does)"
        )
    model = build_model(
        checkpoint, weights, name, encoder_only=encoder_only, allow_partial=allow_partial,
        **overrides,
    )  # fmt: skip
    return model.to(device)


def our_weights(checkpoint: Checkpoint) -> Conversion:
    """A checkpoint's weights under our names. Raises CheckpointError for an unknown layout."""
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
    **overrides: Any,
) -> MaskedAutoencoder:
    """The model that a checkpoint's weights, given under our names, are of; as `load_model`."""
    arguments = model_arguments(checkpoint, weights, name) | overrides
    if encoder_only:
        weights = {key: value for key, value in weights.items() if not key.startswith(CLASSIFIER)}
    try:
        model = MaskedAutoencoder(**arguments)
    except ValueError as error:
        raise CheckpointError(f"{checkpoint.path}: {error}") from error
    optional = DECODER if encoder_only else ()
    load_weights(model, weights, checkpoint.path, allow_partial=allow_partial, optional=optional)
    return model
