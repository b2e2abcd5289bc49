"""Writing checkpoints for other code: completely or not at all, and never over a file unasked."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from fastimae.engine.checkpoint import CheckpointError
from fastimae.folders import replacing

Weights = Mapping[str, Tensor]
SUFFIXES = (".safetensors", ".pth")


def check_target(out: Path, folder: bool, force: bool, suffixes: Sequence[str] = SUFFIXES) -> None:
    """Raise CheckpointError if OUT has the wrong suffix, or exists and may not be replaced.

    suffixes: of files that the layout can be written to.
    """
    if (out.suffix in SUFFIXES) if folder else (out.suffix not in suffixes):
        wanted = "a folder" if folder else f"a file ending in {' or '.join(suffixes)}"
        raise CheckpointError(f"OUT must be {wanted}, not {out}")
    if out.exists() and (not force or out.is_dir() != folder):
        raise CheckpointError(
            f"{out} exists: choose another OUT" + " or add --force" * out.is_file()
        )


def write_file(out: Path, weights: Weights, about: Mapping[str, Any], *, bare: bool) -> None:
    """Write a .safetensors or a .pth, by suffix.

    about: settings and licence, plain values. In a .safetensors they are metadata, which is text
    only, so anything else is written as JSON; in a .pth they are entries beside "model". bare: the
    .pth is the state dict itself.
    """
    # Slices of a packed qkv share storage: torch would save all of it, and safetensors refuses.
    weights = {name: value.detach().clone().contiguous() for name, value in weights.items()}
    with _replacing(out) as partial:
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
        with _replacing(out / f"{name}.json") as partial:
            partial.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    write_file(out / "model.safetensors", weights, about, bare=False)


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Wrap `replacing`: raise CheckpointError if the file cannot be written."""
    try:
        with replacing(path) as partial:
            yield partial
    except (OSError, RuntimeError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"cannot write {path}: {error}") from error
