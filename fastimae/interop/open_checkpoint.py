"""Opening checkpoints of all kinds without running code, and converting them to our names."""

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
from fastimae.engine.checkpoint_file import Unfit, args_in
from fastimae.engine.find_weights import ModelWeights, find_weights
from fastimae.interop import huggingface, pixio, timm
from fastimae.interop.conversion import Conversion, Shapes, shapes_of
from fastimae.interop.hints import IN_PYTHON, Hints
from fastimae.interop.layouts import to_mae
from fastimae.interop.model_names import named_sizes
from fastimae.interop.unsupported_parts import unsupported_part
from fastimae.log import log

FOREIGN_LICENCE = (
    "does not state its licence; the official MAE and i-MAE weights are licensed CC-BY-NC 4.0 "
    "(no commercial use)"
)
_SAFETENSORS = ".safetensors"
HUB_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""Files with the weights in a folder of Hugging Face: the first that is there is read."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A model's weights in a file, and what the file states about them.

    original: the weights under the file's names, and which of the file's they are. conversion: the
    weights under our names, once `open_checkpoint` has converted them. args: settings of the run,
    by flag name, as far as the file has them. ours: the file was written by FastIMAE. licence: of
    the weights, "" if there is nothing to report. hints: how the user can change a setting.
    """

    path: Path
    original: ModelWeights
    conversion: Conversion
    args: Mapping[str, Any]
    ours: bool
    licence: str
    hints: Hints

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """The converted weights."""
        return self.conversion.weights

    @functools.cached_property
    def shapes(self) -> Shapes:
        """The shape of each weight."""
        return shapes_of(self.weights)

    @functools.cached_property
    def widths(self) -> dict[str, int]:
        """What the numbers of heads must divide: the width of the encoder, and of a decoder."""
        widths = {"num_heads": self.shapes["cls_token"][-1]}
        decoder = self.shapes.get("mask_token") or self.shapes.get("decoder_embed.bias")
        return widths | ({"decoder_num_heads": decoder[-1]} if decoder else {})

    @functools.cached_property
    def named_sizes(self) -> dict[str, Any]:
        """Sizes that the model's name in the file implies; {} without a name of this width."""
        sizes = named_sizes(self.args.get("model"))
        return sizes if sizes.get("embed_dim") == self.widths["num_heads"] else {}

    def with_weights(self, weights: Mapping[str, Tensor]) -> Checkpoint:
        """Return a copy with other weights."""
        return dataclasses.replace(
            self, conversion=dataclasses.replace(self.conversion, weights=weights)
        )

    def without(self, *prefixes: str) -> Checkpoint:
        """Return a copy without the weights whose names begin with the prefixes."""
        kept = {name: w for name, w in self.weights.items() if not name.startswith(prefixes)}
        return self.with_weights(kept)


def open_checkpoint(path: Path, *, use_ema: bool = False, hints: Hints = IN_PYTHON) -> Checkpoint:
    """Read a checkpoint, convert it to our names, and log what the user should know about it.

    That is the licence of weights that were not trained here, and which weights of the file are
    used, unless it holds one plain model. use_ema, hints: as `read_checkpoint`. Raises
    CheckpointError if it is not a masked autoencoder, or its encoder has parts that ours lacks.
    """
    checkpoint = read_checkpoint(path, use_ema=use_ema, hints=hints)
    path = checkpoint.path
    if checkpoint.licence:
        log.warning("%s %s", path, checkpoint.licence)
    if checkpoint.original.remarkable:
        log.info("%s: %s", path, _describe(checkpoint.original, hints))
    try:
        conversion = to_mae(checkpoint.weights, ours=checkpoint.ours)
    except Unfit as error:
        raise error.of(path) from error
    checkpoint = dataclasses.replace(checkpoint, conversion=conversion)
    refuse_unsupported_parts(checkpoint)
    for name, what in conversion.filled.items():
        log.info("%s: filled %s with %s", path, name, what)
    return checkpoint


def refuse_unsupported_parts(checkpoint: Checkpoint, *, decoder: bool = False) -> None:
    """Raise CheckpointError if the file's transformer has parts that ours lacks."""
    if part := unsupported_part(checkpoint.weights, decoder=decoder):
        raise CheckpointError(
            f"{checkpoint.path} has {part}: ours has none, and its other weights would compute "
            "something else without it"
        )


def read_checkpoint(path: Path, *, use_ema: bool = False, hints: Hints = IN_PYTHON) -> Checkpoint:
    """Read a .pth, a .safetensors, or a folder with a config.json of Hugging Face or timm.

    The weights keep their names. use_ema: use the averages over the training (EMA). hints: how the
    user changes use_ema. Raises CheckpointError if the file cannot be read safely, or has no such
    weights.
    """
    from_hub = path.is_dir() or path.suffix == _SAFETENSORS
    path = _file_in(path) if path.is_dir() else path
    from_torch = path.suffix != _SAFETENSORS
    content = load_checkpoint(path, mmap=True) if from_torch else _read_safetensors(path)
    args, ours = args_in(content), "fastimae_format" in content
    try:
        found = find_weights(content, averaged=use_ema)
    except Unfit as error:
        leave = f": drop {hints.to_set('use_ema')}" if "averaged" in error.why else ""
        raise CheckpointError(f"{path} {error.why}{leave}") from error
    return Checkpoint(
        path=path,
        original=found,
        conversion=Conversion(found.weights),
        args={**args, **_hub_settings(path.parent)} if from_hub else args,
        ours=ours,
        licence=content.get("licence", "" if ours else FOREIGN_LICENCE),
        hints=hints,
    )


def _file_in(folder: Path) -> Path:
    files = [folder / name for name in HUB_WEIGHTS if (folder / name).exists()]
    if not files:
        raise CheckpointError(f"{folder} holds neither {' nor '.join(HUB_WEIGHTS)}")
    return files[0]


def _describe(found: ModelWeights, hints: Hints) -> str:
    parts = [f"using {found.location}" if str(found.location) else "using its own weights"]
    if found.others:
        parts.append(f"also in the file: {' and '.join(map(str, found.others))}")
    if not found.location.averaged and any(location.averaged for location in found.others):
        parts[-1] += f", an average, which {hints.to_set('use_ema')} uses"
    if found.left_out:
        parts.append(f"unused: {listed(found.left_out)}")
    return "; ".join(parts)


def _read_safetensors(path: Path) -> dict[str, Any]:
    """Return the content as that of a .pth: {"model": weights, and entries of its metadata}."""
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
    """Return the settings in the config.json beside the weights."""
    config = _read_json(folder / "config.json")
    try:
        for layout in (huggingface, pixio):
            if layout.is_config(config):
                return layout.settings(config, _read_json(folder / "preprocessor_config.json"))
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
