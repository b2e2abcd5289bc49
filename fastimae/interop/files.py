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

from fastimae.engine.checkpoint import CheckpointError, listed, load_checkpoint
from fastimae.engine.entries import Taken, take
from fastimae.engine.files import args_in
from fastimae.interop import huggingface, timm
from fastimae.interop.hints import IN_PYTHON, Hints

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
    licence: of the weights, "" where nothing is to be said. taken: which of a file's weights these
    are.
    """

    path: Path
    weights: Mapping[str, Tensor]
    args: Mapping[str, Any]
    ours: bool
    licence: str
    taken: Taken

    @property
    def assumed(self) -> frozenset[str]:
        """Settings that the file has from our import, which assumed them."""
        return frozenset(self.args.get("assumed", ()))


def read(path: Path, *, use_ema: bool = False, hints: Hints = IN_PYTHON) -> Checkpoint:
    """Read a .pth, a .safetensors, or a folder with a config.json of Hugging Face or timm.

    use_ema: of several weights, take the averages over the training (EMA); hints: how one says so.
    Raises CheckpointError where the file cannot be read safely, or has no such weights.
    """
    choice = use_ema, hints
    if path.is_dir():
        return _read_hub_folder(path, None, *choice)
    if path.suffix == _SAFETENSORS and (path.parent / "config.json").exists():
        return _read_hub_folder(path.parent, path, *choice)
    return _read_file(path, *choice)


def introduce(checkpoint: Checkpoint, hints: Hints) -> None:
    """A line on whose weights these are, where they were not trained here, and one on which of a
    file's weights were taken, unless it is a plain one."""
    if checkpoint.licence:
        log.warning("%s %s", checkpoint.path, checkpoint.licence)
    if checkpoint.taken.remarkable:
        log.info("%s: %s", checkpoint.path, _described(checkpoint.taken, hints))


def _read_file(path: Path, use_ema: bool, hints: Hints) -> Checkpoint:
    content = _read_safetensors(path) if path.suffix == _SAFETENSORS else load_checkpoint(path)
    try:
        taken = take(content, averaged=use_ema)
    except ValueError as error:
        leave = f": leave out {hints.to_set('use_ema')}" if "averaged" in str(error) else ""
        raise CheckpointError(f"{path} {error}{leave}") from error
    ours = "fastimae_format" in content
    return Checkpoint(
        path=path,
        weights=taken.weights,
        args=args_in(content),
        ours=ours,
        licence=content.get("licence", "" if ours else FOREIGN_LICENCE),
        taken=taken,
    )


def _described(taken: Taken, hints: Hints) -> str:
    parts = [f"took {taken.place}" if str(taken.place) else "took its own weights"]
    if taken.others:
        parts.append(f"beside {' and '.join(map(str, taken.others))}")
    if not taken.place.averaged and any(place.averaged for place in taken.others):
        parts[-1] += f", an average: {hints.to_set('use_ema')} takes that"
    if taken.left_out:
        parts.append(f"left out {listed(taken.left_out)}")
    return "; ".join(parts)


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


def _read_hub_folder(folder: Path, file: Path | None, use_ema: bool, hints: Hints) -> Checkpoint:
    """Weights beside a config.json, which tells what shapes do not."""
    found = [folder / name for name in _HUB_WEIGHTS if (folder / name).exists()]
    if file is None and not found:
        raise CheckpointError(f"{folder} holds neither {' nor '.join(_HUB_WEIGHTS)}")
    checkpoint = _read_file(file or found[0], use_ema, hints)
    config = _read_json(folder / "config.json")
    processor = _read_json(folder / "preprocessor_config.json")
    try:
        if huggingface.knows(config):
            said = huggingface.settings(config, processor)
        else:
            said = timm.settings(config)
    except ValueError as error:
        raise CheckpointError(f"{folder} {error}") from error
    return dataclasses.replace(checkpoint, args={**checkpoint.args, **said})


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
