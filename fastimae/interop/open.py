"""Checkpoints of all kinds, opened without running code, and their weights under our names."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
from torch import Tensor

from fastimae.engine.checkpoint import CheckpointError, listed, load_checkpoint
from fastimae.engine.entries import Taken, take
from fastimae.engine.files import Unfit, args_in
from fastimae.interop import huggingface, timm
from fastimae.interop.conversion import Conversion, Shapes, shapes_of
from fastimae.interop.hints import IN_PYTHON, Hints
from fastimae.interop.layouts import to_mae
from fastimae.interop.names import named_sizes
from fastimae.interop.parts import foreign_part
from fastimae.log import log

FOREIGN_LICENCE = (
    "says nothing of its licence; the official MAE and i-MAE weights are licensed CC-BY-NC 4.0 "
    "(no commercial use)"
)
_SAFETENSORS = ".safetensors"
_HUB_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A model's weights in a file, and what the file says of them.

    taken: which of its weights these are, under the file's names. conversion: under ours, once
    `open_checkpoint` has translated them. args: settings of the run, by flag name, as far as the
    file tells. ours: written by FastIMAE. licence: of the weights, "" where nothing is to be said.
    hints: how its reader changes what is said of it.
    """

    path: Path
    taken: Taken
    conversion: Conversion
    args: Mapping[str, Any]
    ours: bool
    licence: str
    hints: Hints

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """Those of the conversion."""
        return self.conversion.weights

    @functools.cached_property
    def shapes(self) -> Shapes:
        """The shape of each weight."""
        return shapes_of(self.weights)

    @functools.cached_property
    def widths(self) -> dict[str, int]:
        """What the heads divide, by setting: the width of the encoder, and of a decoder."""
        found = {"num_heads": self.shapes["cls_token"][-1]}
        decoder = self.shapes.get("mask_token") or self.shapes.get("decoder_embed.bias")
        return found | ({"decoder_num_heads": decoder[-1]} if decoder else {})

    @functools.cached_property
    def named(self) -> dict[str, Any]:
        """Sizes of the model whose name the file tells, if it has that one's width; else {}."""
        sizes = named_sizes(self.args.get("model"))
        return sizes if sizes.get("embed_dim") == self.widths["num_heads"] else {}

    def holding(self, weights: Mapping[str, Tensor]) -> Checkpoint:
        """The same with other weights."""
        return dataclasses.replace(
            self, conversion=dataclasses.replace(self.conversion, weights=weights)
        )

    def without(self, *prefixes: str) -> Checkpoint:
        """The same without the weights whose names begin so."""
        kept = {name: w for name, w in self.weights.items() if not name.startswith(prefixes)}
        return self.holding(kept)


def open_checkpoint(path: Path, *, use_ema: bool = False, hints: Hints = IN_PYTHON) -> Checkpoint:
    """A checkpoint under our names, introduced to the user: whose weights these are, where they
    were not trained here, and which of a file's were taken, unless it is a plain one.

    use_ema, hints: as `read`. Raises CheckpointError for what is no masked autoencoder, and for an
    encoder with parts that ours has not.
    """
    checkpoint = read(path, use_ema=use_ema, hints=hints)
    path = checkpoint.path
    if checkpoint.licence:
        log.warning("%s %s", path, checkpoint.licence)
    if checkpoint.taken.remarkable:
        log.info("%s: %s", path, _described(checkpoint.taken, hints))
    try:
        conversion = to_mae(checkpoint.weights, ours=checkpoint.ours)
    except Unfit as error:
        raise error.of(path) from error
    checkpoint = dataclasses.replace(checkpoint, conversion=conversion)
    refuse_parts(checkpoint)
    for name, what in conversion.filled.items():
        log.info("%s: filled %s with %s", path, name, what)
    return checkpoint


def refuse_parts(checkpoint: Checkpoint, *, decoder: bool = False) -> None:
    """Raise CheckpointError for parts of a transformer that ours cannot do without."""
    if part := foreign_part(checkpoint.weights, decoder=decoder):
        raise CheckpointError(
            f"{checkpoint.path} has {part}: ours has none, and without that its other weights "
            "compute something else"
        )


def read(path: Path, *, use_ema: bool = False, hints: Hints = IN_PYTHON) -> Checkpoint:
    """A .pth, a .safetensors, or a folder with a config.json of Hugging Face or timm, as it is.

    use_ema: of several weights, take the averages over the training (EMA); hints: how one says so.
    Raises CheckpointError where the file cannot be read safely, or has no such weights.
    """
    of_hub = path.is_dir() or path.suffix == _SAFETENSORS
    path = _file_in(path) if path.is_dir() else path
    content = (_read_safetensors if path.suffix == _SAFETENSORS else load_checkpoint)(path)
    args, ours = args_in(content), "fastimae_format" in content
    try:
        taken = take(content, averaged=use_ema)
    except Unfit as error:
        leave = f": leave out {hints.to_set('use_ema')}" if "averaged" in error.why else ""
        raise CheckpointError(f"{path} {error.why}{leave}") from error
    return Checkpoint(
        path=path,
        taken=taken,
        conversion=Conversion(taken.weights),
        args={**args, **_hub_settings(path.parent)} if of_hub else args,
        ours=ours,
        licence=content.get("licence", "" if ours else FOREIGN_LICENCE),
        hints=hints,
    )


def _file_in(folder: Path) -> Path:
    found = [folder / name for name in _HUB_WEIGHTS if (folder / name).exists()]
    if not found:
        raise CheckpointError(f"{folder} holds neither {' nor '.join(_HUB_WEIGHTS)}")
    return found[0]


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


def _hub_settings(folder: Path) -> dict[str, Any]:
    """What the config.json beside weights says, which their shapes do not tell."""
    config = _read_json(folder / "config.json")
    try:
        if huggingface.knows(config):
            return huggingface.settings(config, _read_json(folder / "preprocessor_config.json"))
        return timm.settings(config)
    except Unfit as error:
        raise error.of(folder) from error


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
