"""How images were read and shown when a checkpoint was trained, for evaluation to do it alike."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastimae.engine.files import CONVERTED_WITH, CheckpointError, read_args
from fastimae.interop.open import read
from fastimae.loaders.beton_names import manifest_path
from fastimae.loaders.crops import RATIO
from fastimae.loaders.limits import ValueRange, check_value_range, named_range
from fastimae.loaders.what_is import is_beton
from fastimae.log import log


def training_of(checkpoint: Path | None) -> Mapping[str, Any]:
    """The settings of its training, as far as the file tells; {} where it cannot be read, which
    is for whoever loads its weights to say."""
    if checkpoint is None:
        return {}
    try:
        if checkpoint.is_dir() or checkpoint.suffix == ".safetensors":
            return read(checkpoint).args
        return read_args(checkpoint)
    except (CheckpointError, OSError):
        return {}


def crop_of(settings: Mapping[str, Any]) -> str:
    """The --crop of a training; "none" where whole images were shown, resized."""
    return "none" if settings.get("crop") == "none" else "random"


def crop_ratio_of(settings: Mapping[str, Any]) -> tuple[float, float]:
    """The --crop_ratio of a training."""
    pair = _pair(settings.get("crop_ratio"))
    return pair if pair and 0 < pair[0] <= pair[1] else RATIO


def range_for(
    given: ValueRange | None, settings: Mapping[str, Any], checkpoint: Path
) -> ValueRange | None:
    """The range of values to read images with: the one given, else the training's.

    That of a .beton is what it was converted with. Warns where the two differ, as far as that is
    known. Raises DataError for a range that is none.
    """
    known = _range_in(settings.get("value_range")) or _converted_with(settings)
    if given is None:
        return known
    check_value_range(given)
    if (known and known != tuple(given)) or (known is None and _read_files(settings)):
        before = f"with {named_range(known)}" if known else "without --value_range"
        log.warning("%s was trained %s, not with %s", checkpoint, before, named_range(given))
    return given


def conversion(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint keeps of how the .beton that is trained on was converted, if its manifest
    tells: evaluation may run in another folder, or when the file is gone."""
    found = _converted_with(settings)
    return {CONVERTED_WITH: list(found)} if found else {}


def _pair(value: Any) -> tuple[float, float] | None:
    """Two finite numbers of a setting; None where another project calls something else so."""
    is_pair = isinstance(value, list | tuple) and len(value) == 2
    if is_pair and all(isinstance(part, int | float) and math.isfinite(part) for part in value):
        return float(value[0]), float(value[1])
    return None


def _range_in(value: Any) -> ValueRange | None:
    pair = _pair(value)
    return pair if pair and pair[0] < pair[1] else None


def _converted_with(settings: Mapping[str, Any]) -> ValueRange | None:
    """The range of the .beton that was trained on: as kept in the checkpoint, else as its manifest
    has it, if that is still there."""
    if kept := _range_in(settings.get(CONVERTED_WITH)):
        return kept
    source = settings.get("ffcv") or settings.get("dali") or ""
    try:
        manifest = json.loads(manifest_path(Path(source)).read_text())
        return _range_in(manifest["options"]["value_range"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _read_files(settings: Mapping[str, Any]) -> bool:
    """Whether a training is known to have read image files itself."""
    source = settings.get("data_path") or settings.get("dali")
    return isinstance(source, str) and source != "" and not is_beton(source)
