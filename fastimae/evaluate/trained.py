"""How images were read and shown when a checkpoint was trained, for evaluation to do it alike."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastimae.engine import files
from fastimae.engine.files import CheckpointError
from fastimae.interop.files import read as read_any
from fastimae.loaders.beton import BETON_SUFFIXES
from fastimae.loaders.beton_names import manifest_path
from fastimae.loaders.limits import ValueRange, check_value_range, named_range

log = logging.getLogger("fastimae")


def settings_of(checkpoint: Path | None) -> Mapping[str, Any]:
    """The settings of its training, as far as the file tells; {} where it cannot be read, which
    is for whoever loads its weights to say."""
    if checkpoint is None:
        return {}
    try:
        if checkpoint.is_dir() or checkpoint.suffix == ".safetensors":
            return read_any(checkpoint).args
        args = files.read(checkpoint, mmap=True).get("args")
    except (CheckpointError, OSError):
        return {}
    args = vars(args) if isinstance(args, argparse.Namespace) else args
    return args if isinstance(args, dict) else {}


def crop_of(settings: Mapping[str, Any]) -> str:
    """The --crop of a training; "none" where whole images were shown, resized."""
    return settings.get("crop") or "random"


def range_for(
    given: ValueRange | None, settings: Mapping[str, Any], checkpoint: Path
) -> ValueRange | None:
    """The range of values to read images with: the one given, else the training's.

    That of a .beton is what it was converted with. Warns where the two differ, as far as that is
    known. Raises DataError for a range that is none.
    """
    known = settings.get("value_range") or _converted_with(settings)
    if given is None:
        return tuple(known) if known else None
    check_value_range(given)
    if (known and tuple(known) != tuple(given)) or (known is None and _read_files(settings)):
        before = f"with {named_range(known)}" if known else "without --value_range"
        log.warning("%s was trained %s, not with %s", checkpoint, before, named_range(given))
    return given


def _converted_with(settings: Mapping[str, Any]) -> Sequence[float] | None:
    """The range of the .beton that was trained on, if its manifest is still there and has one."""
    source = settings.get("ffcv") or settings.get("dali") or ""
    try:
        return json.loads(manifest_path(Path(source)).read_text())["options"]["value_range"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _read_files(settings: Mapping[str, Any]) -> bool:
    """Whether a training is known to have read image files itself."""
    source = settings.get("data_path") or settings.get("dali")
    return bool(source) and Path(source).suffix not in BETON_SUFFIXES
