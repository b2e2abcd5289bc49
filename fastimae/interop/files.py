"""Checkpoint files of all kinds, read without running code: .pth, .safetensors, hub folders."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
from torch import Tensor

from fastimae.engine.checkpoint import CheckpointError, load_checkpoint, model_weights
from fastimae.interop import huggingface

log = logging.getLogger("fastimae")

FOREIGN_LICENCE = (
    "says nothing of its licence; the official MAE and i-MAE weights are licensed CC-BY-NC 4.0 "
    "(no commercial use)"
)
_SAFETENSORS = ".safetensors"
_HUB_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The weights in a file, under the names they have there.

    args: settings of the run, by flag name, as far as the file tells. ours: written by FastIMAE.
    licence: of the weights, "" where nothing is to be said.
    """

    path: Path
    weights: Mapping[str, Tensor]
    args: Mapping[str, Any]
    ours: bool
    licence: str


def read(path: Path) -> Checkpoint:
    """Read a .pth, a .safetensors, or a folder with Hugging Face's config.json.

    Raises CheckpointError where it cannot be read safely.
    """
    if path.is_dir():
        return _read_hub_folder(path)
    if path.suffix == _SAFETENSORS and (path.parent / "config.json").exists():
        return _read_hub_folder(path.parent, path)
    return _read_file(path)


def say_licence(checkpoint: Checkpoint) -> None:
    """A line on whose weights these are, where they were not trained here."""
    if checkpoint.licence:
        log.warning("%s %s", checkpoint.path, checkpoint.licence)


def _read_file(path: Path) -> Checkpoint:
    content = _read_safetensors(path) if path.suffix == _SAFETENSORS else load_checkpoint(path)
    content = {"model": content["state_dict"]} | content if "state_dict" in content else content
    ours = "fastimae_format" in content
    args = content.get("args")
    return Checkpoint(
        path=path,
        weights=model_weights(content, path),
        args=args if isinstance(args, dict) else vars(args) if args else {},
        ours=ours,
        licence=content.get("licence", "" if ours else FOREIGN_LICENCE),
    )


def _read_safetensors(path: Path) -> dict[str, Any]:
    """The file as the content of a .pth: {"model": weights, and what its metadata holds}."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = dict(file.metadata() or {})
        if "args" in metadata:
            metadata["args"] = json.loads(metadata["args"])
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no checkpoint {path}") from error
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not a safetensors file: {error}") from error
    return {**metadata, "model": weights}


def _read_hub_folder(folder: Path, file: Path | None = None) -> Checkpoint:
    """Weights beside a config.json, which tells what shapes do not."""
    found = [folder / name for name in _HUB_WEIGHTS if (folder / name).exists()]
    if file is None and not found:
        raise CheckpointError(f"{folder} holds neither {' nor '.join(_HUB_WEIGHTS)}")
    checkpoint = _read_file(file or found[0])
    config = _read_json(folder / "config.json")
    if config.get("model_type") != "vit_mae":
        return checkpoint
    processor = _read_json(folder / "preprocessor_config.json")
    try:
        args = {**checkpoint.args, **huggingface.settings(config, processor)}
    except ValueError as error:
        raise CheckpointError(f"{folder} {error}") from error
    return dataclasses.replace(checkpoint, args=args)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
