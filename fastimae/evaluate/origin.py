"""The origin of a result's weights: their digest, and the run and epoch they come from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastimae.engine.checkpoint import CheckpointError, load_checkpoint, model_weights
from fastimae.engine.checkpoint_file import RUN, WEIGHTS, args_in

BEGUN = "begun"
"""Key of `read_origin` and of results.json: the digest of the weights that a classifier was trained
from."""
_ENCODER = ("patch_embed.", "cls_token", "pos_embed", "blocks.", "norm.", "fc_norm.")


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """Hash the encoder's weights by name and value: the same for any file that holds them."""
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        if name.startswith(_ENCODER):
            digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
            digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def origin_of(path: Path, model: nn.Module) -> dict[str, Any]:
    """Return the origin of a model that was loaded from `path`, for results.json.

    "weights" is the digest; "run", "epoch" and "step" (of a checkpoint within an epoch) are None
    where unknown. They are also None if the file has been replaced since, as by a training that
    runs at the same time. "adapted" says what was done to weights for other images, if anything:
    the digest is then that of the file.
    """
    changes = getattr(model, "adapted", {})
    digest = (changes and _digest_before(path, model)) or weights_digest(model.state_dict())
    try:
        origin = read_origin(path)
    except CheckpointError:  # not a checkpoint of fastimae-train
        origin = {}
    known = origin if origin.get(WEIGHTS) == digest else {}
    adapted = {"adapted": dict(changes)} if changes else {}
    return {WEIGHTS: digest, **{key: known.get(key) for key in ("run", "epoch", "step")}, **adapted}


def _digest_before(path: Path, model: nn.Module) -> str:
    """Return the digest of the file's weights; "" unless the model has all but the adapted ones."""
    try:
        weights = model_weights(load_checkpoint(path, mmap=True), path)
    except CheckpointError:
        return ""
    kept = (
        weights_digest({name: w for name, w in each.items() if name not in model.adapted})
        for each in (weights, model.state_dict())
    )
    return weights_digest(weights) if len(set(kept)) == 1 else ""


def read_origin(path: Path) -> dict[str, Any]:
    """Return what a checkpoint says of its weights: as `origin_of`, and BEGUN.

    Raises CheckpointError.
    """
    content = load_checkpoint(path, mmap=True)
    args, digest = args_in(content), weights_digest(model_weights(content, path))
    training = {"run": args.get(RUN), "epoch": content.get("epoch"), "step": content.get("step")}
    return {WEIGHTS: digest, **training, BEGUN: args.get(WEIGHTS)}


def check_same_weights(path: Path, content: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise CheckpointError if the classifier to resume was trained from other weights.

    content: of the file `path`. now: the settings of the run that would resume it.
    """
    begun = args_in(content).get(WEIGHTS)
    if begun and now.get(WEIGHTS) and begun != now[WEIGHTS]:
        raise CheckpointError(
            f"--resume {path} was trained from other weights than --checkpoint holds now: "
            "leave out --resume, or choose another --output_dir"
        )


def check_result_is_of(path: Path, results: Mapping[str, Any], folder: Path) -> None:
    """Raise CheckpointError if results are of other weights than the checkpoint holds now.

    path: the checkpoint. results: the content of the results.json in `folder`. Results without an
    epoch are not checked.
    """
    if results.get("epoch") is None or not path.is_file():
        return
    if read_origin(path)[WEIGHTS] not in (results[WEIGHTS], results.get(BEGUN)):
        raise CheckpointError(
            f"{folder} has results of other weights than {path} holds now: remove it, or choose "
            "another --output_dir"
        )
