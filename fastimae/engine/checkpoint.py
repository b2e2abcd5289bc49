"""Checkpoints: written whole or not at all, read without running code."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

log = logging.getLogger("fastimae")

LAST = "checkpoint-last.pth"
FORMAT = 1
_LISTED = 8


class CheckpointError(Exception):
    """A checkpoint cannot be written, read or used. The message says which and what to do."""


def save_checkpoint(path: Path, content: Mapping[str, Any], also: Path | None = None) -> None:
    """Write `content` to `path`, and to `also`, atomically: a crash leaves the old file or the new.

    Raises CheckpointError where the disk does not take it; files that were there stay as they are.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            torch.save(dict(content), file)
            file.flush()
            os.fsync(file.fileno())
        if also:
            _copy(partial, also)
        partial.replace(path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:  # torch reports a short write as RuntimeError
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        free = shutil.disk_usage(path.parent).free / 1e9 if path.parent.is_dir() else 0
        raise CheckpointError(
            f"cannot save {path} ({_one_line(error)}; {free:.1f} GB free): make room or change "
            "--output_dir; earlier checkpoints are untouched"
        ) from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU with weights_only=True (argparse.Namespace is let through).

    Raises CheckpointError where the file is missing, damaged or holds anything but data.
    """
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no checkpoint {path}") from error
    except Exception as error:  # torch raises many kinds for damaged and foreign files
        raise CheckpointError(
            f"{path} is not a checkpoint that can be read safely ({_one_line(error)})"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a checkpoint")
    return content


def model_weights(content: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """The state dict in a checkpoint, MAE's {"model": ...} or a bare one, without wrappers' names.

    Raises CheckpointError where there is none.
    """
    weights = content.get("model", content)
    if not isinstance(weights, dict) or not any(torch.is_tensor(v) for v in weights.values()):
        raise CheckpointError(f"{path} holds no model weights")
    prefix = re.compile(r"^(module\.|_orig_mod\.)+")
    return {prefix.sub("", name): value for name, value in weights.items()}


def load_weights(
    module: nn.Module,
    weights: Mapping[str, Tensor],
    path: Path,
    *,
    allow_partial: bool = False,
    optional: tuple[str, ...] = (),
) -> None:
    """Copy weights into the module and account for every key.

    optional: prefixes of keys that may be missing without a word. Raises CheckpointError that
    lists missing and unexpected keys, unless allow_partial, and keys of another shape, always.
    """
    own = module.state_dict()
    wrong = [
        f"{name} {tuple(weights[name].shape)} instead of {tuple(own[name].shape)}"
        for name in sorted(own.keys() & weights.keys())
        if own[name].shape != weights[name].shape
    ]
    if wrong:
        raise CheckpointError(
            f"{path} is of another size: {_listed(wrong)}: change --model or --input_size"
        )
    missing = [n for n in own if n not in weights and not n.startswith(optional or ("\0",))]
    unexpected = [name for name in weights if name not in own]
    if missing or unexpected:
        message = (
            f"{path}: missing keys: {_listed(missing)}; unexpected keys: {_listed(unexpected)}"
        )
        if not allow_partial:
            raise CheckpointError(f"{message}; --allow_partial loads it all the same")
        log.warning(message)
    module.load_state_dict(dict(weights), strict=False)


def find_resume(resume: str, output_dir: Path) -> Path | None:
    """The checkpoint that --resume means: a path, or with "auto" the newest in output_dir."""
    if resume != "auto":
        return Path(resume) if resume else None
    last = output_dir / LAST
    if last.exists():
        return last
    numbered = output_dir.glob("checkpoint-*.pth")
    epochs = {int(m[1]): p for p in numbered if (m := re.match(r"checkpoint-(\d+)\.pth$", p.name))}
    return epochs[max(epochs)] if epochs else None


def set_aside(output_dir: Path) -> Path | None:
    """Move an earlier run's files from output_dir into output_dir/previous-N; None if none."""
    patterns = ("checkpoint-*.pth", "log.txt", "*.png", "events.out.tfevents.*", "nonfinite*.json")
    files = [file for pattern in patterns for file in output_dir.glob(pattern)]
    for leftover in output_dir.glob("*.partial"):
        leftover.unlink()
    if not any(file.name.startswith("checkpoint-") for file in files):
        return None
    number = 1
    while (folder := output_dir / f"previous-{number}").exists():
        number += 1
    folder.mkdir()
    for file in files:
        file.rename(folder / file.name)
    return folder


def _copy(source: Path, target: Path) -> None:
    """A second name for the file where the disk can do that, else a second file."""
    partial = target.with_name(target.name + ".copy.partial")
    partial.unlink(missing_ok=True)
    try:
        os.link(source, partial)
    except OSError:
        shutil.copyfile(source, partial)
    partial.replace(target)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return (", ".join(names[:_LISTED]) + more) or "none"
