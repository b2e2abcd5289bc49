"""The encoder in a checkpoint of a dense task, whose weights are under "encoder."."""

from __future__ import annotations

from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fastimae.engine.checkpoint import CheckpointError, load_checkpoint
from fastimae.engine.checkpoint_file import args_in
from fastimae.engine.resume import kind_of, weights_in
from fastimae.evaluate.labels.class_names import names_in
from fastimae.interop.architecture import depth, mlp_ratio
from fastimae.models import MaskedAutoencoder

PREFIX = "encoder."


def open_saved(
    path: Path, kind: str, needed: Set[str]
) -> tuple[dict[str, Tensor], dict[str, Any], list[str]]:
    """Return the weights, the settings and the names of classes in a checkpoint of a dense task.

    path: the checkpoint. kind: what it has to be, see `resume.kind_of`. needed: settings that it
    must have. Raises CheckpointError, naming --resume, for files of other kinds.
    """
    content = load_checkpoint(path, mmap=True)
    weights, settings = weights_in(content, path), args_in(content)
    found = kind_of(weights, settings)
    if found != kind:
        raise CheckpointError(f"--resume {path} is {found}, and --eval tests {kind}")
    classes = names_in(settings)
    if not classes or needed - settings.keys():
        raise CheckpointError(f"{path} has no settings: give a checkpoint as FastIMAE wrote it")
    return weights, settings, classes


def empty_encoder(
    weights: Mapping[str, Tensor], settings: Mapping[str, Any], path: Path
) -> MaskedAutoencoder:
    """Return an encoder of the sizes of the one in `weights`, with fresh weights.

    weights: of the model, see `open_saved`. settings: of its checkpoint, with those that
    `encoder_settings` returns. path: the file, for errors. Raises CheckpointError if the settings
    do not fit the weights.
    """
    shapes = {name.removeprefix(PREFIX): tuple(weight.shape) for name, weight in weights.items()}
    try:
        width, in_chans, patch_size, _ = shapes["patch_embed.proj.weight"]
        made = MaskedAutoencoder(
            img_size=tuple(settings["input_size"]),
            patch_size=patch_size,
            in_chans=in_chans,
            embed_dim=width,
            depth=depth(shapes, "blocks."),
            num_heads=settings["num_heads"],
            mlp_ratio=mlp_ratio(shapes["blocks.0.mlp.fc1.weight"][0], width),
            class_tokens=shapes["cls_token"][1],
            decoder=False,
            mean=settings["mean"],
            std=settings["std"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} has no settings that fit its encoder ({error}): give a checkpoint as FastIMAE "
            "wrote it"
        ) from error
    if "norm.weight" not in shapes:  # of an encoder that was fine-tuned on the mean of its patches
        made.norm = nn.Identity()
    return made


def encoder_settings(encoder: MaskedAutoencoder, img_size: tuple[int, int]) -> dict[str, Any]:
    """Return what a checkpoint has to say about an encoder, besides its weights.

    encoder: that was trained from. img_size: (height, width) that its positions are resized to.
    """
    return {
        "input_size": list(img_size),
        "in_chans": encoder.in_chans,
        "mean": list(encoder.mean),
        "std": list(encoder.std),
        "num_heads": encoder.blocks[0].attn.num_heads,
    }
