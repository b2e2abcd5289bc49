"""How images were read and cropped in a checkpoint's training, for evaluation to do the same."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastimae.engine.checkpoint_file import CONVERTED_WITH, CheckpointError, read_args
from fastimae.loaders.beton.names import manifest_path
from fastimae.loaders.images.crops import RATIO
from fastimae.loaders.images.limits import ValueRange, check_value_range, named_range
from fastimae.loaders.sources.what_is import is_beton
from fastimae.log import log


def training_settings(checkpoint: Path | None) -> Mapping[str, Any]:
    """Return the settings of a checkpoint's training, as far as the file has them. {} if it cannot
    be read: loading its weights will raise the error."""
    if checkpoint is None:
        return {}
    from fastimae.interop.open_checkpoint import read_checkpoint  # which imports torch

    try:
        if checkpoint.is_dir() or checkpoint.suffix == ".safetensors":
            return read_checkpoint(checkpoint).args
        found = checkpoint.stat()
        return _settings_in(checkpoint, found.st_ino, found.st_mtime_ns, found.st_size)
    except (CheckpointError, OSError):
        return {}


@functools.lru_cache(maxsize=4)
def _settings_in(checkpoint: Path, *_version: int) -> Mapping[str, Any]:
    """Read the settings in a version of a file: once, although a run asks several times."""
    return read_args(checkpoint)


def crop_of(settings: Mapping[str, Any]) -> str:
    """Return the --crop of a training: "none" if images were only resized, else "random"."""
    return "none" if settings.get("crop") == "none" else "random"


def crop_ratio_of(settings: Mapping[str, Any]) -> tuple[float, float]:
    """Return the --crop_ratio of a training."""
    pair = _pair(settings.get("crop_ratio"))
    return pair if pair and 0 < pair[0] <= pair[1] else RATIO


def value_range_for(
    given: ValueRange | None, settings: Mapping[str, Any], checkpoint: Path
) -> ValueRange | None:
    """Return the value range to read images with: the given one, else that of the training.

    A training on a .beton file used the range that this was converted with. Warns if the two are
    known to differ. Raises DataError for an invalid range.
    """
    known = _range_in(settings.get("value_range")) or _converted_with(settings)
    if given is None:
        return known
    check_value_range(given)
    if (known and known != tuple(given)) or (known is None and _read_files(settings)):
        before = f"with {named_range(known)}" if known else "without --value_range"
        log.warning("%s was trained %s, not with %s", checkpoint, before, named_range(given))
    return given


def conversion_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the value range of a .beton file's conversion, from its manifest, to store in
    checkpoints: evaluation may run in another folder, or when the file is gone."""
    found = _converted_with(settings)
    return {CONVERTED_WITH: list(found)} if found else {}


def _pair(value: Any) -> tuple[float, float] | None:
    """Return a setting of two finite numbers; None if another project uses its name differently."""
    is_pair = isinstance(value, list | tuple) and len(value) == 2
    if is_pair and all(isinstance(part, int | float) and math.isfinite(part) for part in value):
        return float(value[0]), float(value[1])
    return None


def _range_in(value: Any) -> ValueRange | None:
    pair = _pair(value)
    return pair if pair and pair[0] < pair[1] else None


def _converted_with(settings: Mapping[str, Any]) -> ValueRange | None:
    """Return the value range of the .beton file that was trained on: from the checkpoint, else from
    the file's manifest if that still exists."""
    if kept := _range_in(settings.get(CONVERTED_WITH)):
        return kept
    source = settings.get("ffcv") or settings.get("dali") or ""
    try:
        manifest = json.loads(manifest_path(Path(source)).read_text())
        return _range_in(manifest["options"]["value_range"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _read_files(settings: Mapping[str, Any]) -> bool:
    """Return whether a training is known to have read image files, not a .beton file."""
    source = settings.get("data_path") or settings.get("dali") or settings.get("dataset")
    return isinstance(source, str) and source != "" and not is_beton(source)
