"""Files that are written whole or not at all, and read without running code."""

from __future__ import annotations

import argparse
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fastimae.folders import replacing
from fastimae.wording import WordedError

# Where torch says what a file holds that is neither numbers nor tensors.
_UNSAFE = re.compile(r"[Uu]nsupported (?:global: )?GLOBAL (\S+)")

# What a checkpoint keeps among the settings that is no flag's.
RUN = "run"
"""What tells its run from all others."""
WEIGHTS = "weights"
"""Of a classifier: the digest of the weights that it began from."""
CLASSES = "classes"
"""Of a classifier: the names of its classes, in order."""
CONVERTED_WITH = "converted_with"
"""The range of values that the .beton was converted with that it was trained on."""
PROCESSES = "processes"
"""How many it was trained on; --world_size is 1 under most launchers."""
EFFECTIVE_BATCH = "effective_batch"
"""Images of an optimizer step, on all processes."""
NO_FLAGS = frozenset((RUN, WEIGHTS, CLASSES, CONVERTED_WITH, PROCESSES, EFFECTIVE_BATCH))


class CheckpointError(WordedError):
    """A checkpoint cannot be written, read or used. The message says which and what to do."""


class Unfit(ValueError):
    """What a function was given is not what it takes; the message is a sentence with a subject."""

    def __init__(self, why: str, subject: str = "the state dict") -> None:
        super().__init__(f"{subject} {why}")
        self.why = why

    def of(self, path: Path) -> CheckpointError:
        """The same sentence, of the file that it is from."""
        return CheckpointError(f"{path} {self.why}")


def write(path: Path, content: Mapping[str, Any], also: Path | None = None) -> None:
    """Write `content` to `path`, and to `also`, atomically: a crash leaves the old file or the new.

    Raises CheckpointError where the disk does not take it; files that were there stay as they are.
    """
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
            f"cannot save {path} ({_one_line(error)}; {free:.1f} GB free): make room or change "
            "--output_dir; earlier checkpoints are untouched"
        ) from error


def read(path: Path, *, mmap: bool = False) -> dict[str, Any]:
    """Read a file onto the CPU with weights_only=True (argparse.Namespace is let through).

    mmap: leave tensors on the disk until they are looked at. Raises CheckpointError where the
    file is missing, damaged or holds anything but data.
    """
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder: name a checkpoint in it")
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise CheckpointError(f"{path} is not a file")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no checkpoint {path}") from error
    except Exception as error:  # torch raises many kinds for damaged and foreign files
        if not _is_of_torch(path):
            raise CheckpointError(
                f"{path} is no checkpoint: torch.save wrote no such file"
            ) from error
        raise CheckpointError(
            f"{path} is not a checkpoint that can be read safely ({_one_line(error)})"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a checkpoint")
    return content


def read_args(path: Path) -> dict[str, Any]:
    """The settings that a checkpoint keeps, without its weights. Raises CheckpointError."""
    return args_in(read(path, mmap=True))


def args_in(content: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a checkpoint's content keeps, by flag name; {} where it has none, or what
    is called so is something else."""
    args = content.get("args")
    if isinstance(args, argparse.Namespace):
        return vars(args)
    return args if isinstance(args, dict) else {}


def _is_of_torch(path: Path) -> bool:
    """Whether it begins as what torch.save writes, if it can be opened: a zip file, or a pickle."""
    try:
        with path.open("rb") as file:
            return file.read(2) in (b"PK", b"\x80\x02")
    except OSError:
        return True


def _copy(source: Path, target: Path) -> None:
    """A second name for the file where the disk can do that, else a second file."""
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


def _one_line(error: BaseException) -> str:
    text = str(error).strip()
    if found := _UNSAFE.search(text):
        return f"it needs {found[1]}, which is code: save its state_dict() alone"
    return text.splitlines()[0] if text else type(error).__name__
