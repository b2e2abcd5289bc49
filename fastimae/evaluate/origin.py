"""Which weights a result is of: their digest, and the run and the epoch that they are from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastimae.engine.checkpoint import CheckpointError, load_checkpoint, model_weights
from fastimae.engine.files import RUN, WEIGHTS, args_in

BEGUN = "begun"
"""Of a classifier's checkpoint: the digest of the weights that it began from."""
_ENCODER = ("patch_embed.", "cls_token", "pos_embed", "blocks.", "norm.", "fc_norm.")


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """The same for the same encoder, whichever file it comes from: a hash of names and values."""
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        if name.startswith(_ENCODER):
            digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
            digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def origin_of(path: Path, model: nn.Module) -> dict[str, Any]:
    """For results.json, of the model as it was loaded from `path`: "weights", the digest; and
    "run", "epoch" and "step" (of a checkpoint within an epoch), None where they are unknown.

    They are, too, where the file was written anew meanwhile: training may go on beside this.
    """
    digest = weights_digest(model.state_dict())
    try:
        found = read_origin(path)
    except CheckpointError:  # not one of ours
        found = {}
    place = found if found.get(WEIGHTS) == digest else {}
    return {WEIGHTS: digest, **{key: place.get(key) for key in ("run", "epoch", "step")}}


def read_origin(path: Path) -> dict[str, Any]:
    """Of the weights that are in a checkpoint, the same as `origin_of`, as far as it says; and
    BEGUN. Raises CheckpointError."""
    content = load_checkpoint(path, mmap=True)
    args, digest = args_in(content), weights_digest(model_weights(content, path))
    place = {"run": args.get(RUN), "epoch": content.get("epoch"), "step": content.get("step")}
    return {WEIGHTS: digest, **place, BEGUN: args.get(WEIGHTS)}


def check_same_weights(path: Path, content: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise CheckpointError where the classifier in `path`, by its content and by the settings of
    the run that would go on with it, began from other weights."""
    begun = args_in(content).get(WEIGHTS)
    if begun and now.get(WEIGHTS) and begun != now[WEIGHTS]:
        raise CheckpointError(
            f"--resume {path} is a classifier of other weights than --checkpoint holds now: "
            "leave out --resume, or choose another --output_dir"
        )


def check_result_is_of(path: Path, found: Mapping[str, Any], what: Path) -> None:
    """Raise CheckpointError where a results.json's content, found in `what`, is of other weights
    than the checkpoint holds now, as far as it says."""
    if found.get("epoch") is None or not path.is_file():
        return
    if read_origin(path)[WEIGHTS] != found[WEIGHTS]:
        raise CheckpointError(
            f"{what} is of other weights than {path} holds now: remove it, or choose another "
            "--output_dir"
        )
