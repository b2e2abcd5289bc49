"""Checkpoint files: written completely or not at all, and read without running code."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastimae.folders import replacing
from fastimae.settings import free_settings
from fastimae.wording import WordedError, first_line

# How torch names the code that a file would need to be unpickled.
_UNSAFE = re.compile(r"[Uu]nsupported (?:global: )?GLOBAL (\S+)")
# torch then explains how to load the file all the same, which would run that code.
_ADVICE = re.compile(r"weights_only|Weights only|add_safe_globals|trust")

# The first bytes of files that torch.save writes, now and in its older format.
_ZIP, _PICKLE = b"PK", b"\x80\x02"

# Keys among a checkpoint's settings ("args") that are not flags.
RUN = "run"
"""The id of its run."""
WEIGHTS = "weights"
"""Classifiers: the digest of the weights that training started from."""
CLASSES = "classes"
"""Classifiers: the names of the classes, in order."""
LABELLED = "labelled"
"""Classifiers: the digest of which images were trained on; "" for all, see `Images.chosen`."""
PROBED = "probed"
"""Probes: which features of the encoder they are of, and their heads, by the names of flags."""
CONVERTED_WITH = "converted_with"
"""The value range that its .beton file of training images was converted with."""
PROCESSES = "processes"
"""How many processes trained it; --world_size is 1 under most launchers."""
EFFECTIVE_BATCH = "effective_batch"
"""Images per optimizer step, over all processes."""
NO_FLAGS = frozenset(
    (RUN, WEIGHTS, CLASSES, LABELLED, PROBED, CONVERTED_WITH, PROCESSES, EFFECTIVE_BATCH)
)


class CheckpointError(WordedError):
    """A checkpoint cannot be written, read or used. The message names it and says what to do."""


class Unfit(ValueError):
    """An argument whose content a function cannot use. The message starts with what is unfit."""

    def __init__(self, why: str, subject: str = "the state dict") -> None:
        super().__init__(f"{subject} {why}")
        self.why = why

    def of(self, path: Path) -> CheckpointError:
        """Return the same sentence about the file that the content is from."""
        return CheckpointError(f"{path} {self.why}")


def write(path: Path, content: Mapping[str, Any], also: Path | None = None) -> None:
    """Write `content` to `path`, and to `also`, atomically: a crash leaves the old file or the new.

    Raises CheckpointError if the file cannot be written; earlier files stay as they are.
    """
    import torch

    try:
        with replacing(path) as partial:
            with partial.open("wb") as file:
                torch.save(dict(content), file)
            if also:
                _copy(partial, also)
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:  # torch reports a short write as RuntimeError
        free = shutil.disk_usage(path.parent).free / 1e9 if path.parent.is_dir() else 0
        raise CheckpointError(
            f"cannot save {path} ({first_line(error)}; {free:.1f} GB free): make room or change "
            "--output_dir; earlier checkpoints are untouched"
        ) from error


def read(path: Path, *, mmap: bool = False) -> dict[str, Any]:
    """Read a file onto the CPU with weights_only=True (argparse.Namespace is allowed).

    mmap: leave tensors on disk until they are used, if the format allows it. Raises CheckpointError
    if the file is missing, damaged or holds anything but data.
    """
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder: name a checkpoint in it")
    if path.exists() and not path.is_file():  # reading a pipe would block
        raise CheckpointError(f"{path} is not a file")
    import torch

    try:
        with (
            warnings.catch_warnings(action="ignore"),  # with advice of the same kind
            torch.serialization.safe_globals([argparse.Namespace]),
        ):
            mmap = mmap and _begins_like(path, _ZIP)  # torch cannot map its older files
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no checkpoint {path}") from error
    except Exception as error:  # torch raises many kinds for damaged and foreign files
        if not _begins_like(path, _ZIP, _PICKLE):
            raise CheckpointError(
                f"{path} is not a checkpoint: torch.save did not write it"
            ) from error
        cause = None if _ADVICE.search(str(error)) else error
        raise CheckpointError(
            f"{path} is not a checkpoint that can be read safely ({_why_unsafe(error)})"
        ) from cause
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a checkpoint")
    return content


def read_args(path: Path) -> dict[str, Any]:
    """Read a checkpoint's settings without its weights. Raises CheckpointError."""
    return args_in(read(path, mmap=True))


def changed_settings(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Return the earlier values of changed settings, except those that a run may change freely."""
    compared = before.keys() & now.keys() - free_settings() - NO_FLAGS
    return {name: before[name] for name in sorted(compared) if before[name] != now[name]}


def args_in(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a checkpoint's settings by flag name; {} if it has none under "args"."""
    args = content.get("args")
    if isinstance(args, argparse.Namespace):
        return vars(args)
    return args if isinstance(args, dict) else {}


def _begins_like(path: Path, *kinds: bytes) -> bool:
    """Return whether the file begins with any of these two bytes; True if it cannot be opened."""
    try:
        with path.open("rb") as file:
            return file.read(2) in kinds
    except OSError:
        return True


def _copy(source: Path, target: Path) -> None:
    """Make a hard link if the file system can, else a copy."""
    with replacing(target) as partial:
        partial.unlink(missing_ok=True)
        try:
            os.link(source, partial)
        except OSError:
            shutil.copyfile(source, partial)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _why_unsafe(error: Exception) -> str:
    """Say in a line why torch cannot read a file, without torch's advice to read it unsafely."""
    text = str(error)
    if found := _UNSAFE.search(text):
        return f"it needs {found[1]}, which is code: save its state_dict() alone"
    if "TorchScript" in text:
        return "it is a TorchScript archive, which holds code: save its state_dict() alone"
    if _ADVICE.search(text):
        return "it is damaged, or holds more than tensors and plain values: save its state_dict()"
    return first_line(error)
