"""Writing checkpoints for others: whole or not at all, and never over a file unasked."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from fastimae.engine.checkpoint import CheckpointError
from fastimae.folders import replacing

Weights = Mapping[str, Tensor]
SUFFIXES = (".safetensors", ".pth")


def check_target(out: Path, folder: bool, force: bool) -> None:
    """Raise CheckpointError where OUT has the wrong suffix or is there already."""
    if folder == (out.suffix in SUFFIXES):
        wanted = "a folder" if folder else f"a file ending in {' or '.join(SUFFIXES)}"
        raise CheckpointError(f"OUT must be {wanted}, not {out}")
    if out.exists() and (not force or out.is_dir() != folder):
        raise CheckpointError(
            f"{out} exists: choose another OUT" + " or add --force" * out.is_file()
        )


def write_file(out: Path, weights: Weights, about: Mapping[str, Any], *, bare: bool) -> None:
    """Write a .safetensors or a .pth, by suffix.

    about: settings and licence, plain values. They are the metadata of a .safetensors, which holds
    text only, so what is not text goes as JSON; in a .pth they lie beside "model". bare: the .pth
    is the state dict itself.
    """
    # Slices of a packed qkv share storage, which torch would save whole and safetensors refuses.
    weights = {name: value.detach().clone().contiguous() for name, value in weights.items()}
    with _whole(out) as partial:
        if out.suffix == ".safetensors":
            text = {k: v if isinstance(v, str) else json.dumps(v) for k, v in about.items()}
            safetensors.torch.save_file(weights, partial, {"format": "pt", **text})
        else:
            torch.save(weights if bare else {"model": weights, **about}, partial)


def write_hub_folder(
    out: Path, weights: Weights, about: Mapping[str, Any], **configs: Mapping[str, Any]
) -> None:
    """Write model.safetensors and a NAME.json for each of `configs` into the folder."""
    out.mkdir(parents=True, exist_ok=True)
    for name, config in configs.items():
        with _whole(out / f"{name}.json") as partial:
            partial.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    write_file(out / "model.safetensors", weights, about, bare=False)


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """See `replacing`. Raises CheckpointError where the disk does not take the file."""
    try:
        with replacing(path) as partial:
            yield partial
    except (OSError, RuntimeError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"cannot write {path}: {error}") from error
