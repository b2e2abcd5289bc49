"""Checkpoints: found, read, and put into models."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fastimae.engine.entries import take
from fastimae.engine.files import CheckpointError, Unfit, read, write
from fastimae.engine.sharded import FILES, forget_shards, join, laid_out
from fastimae.log import log

LAST = "checkpoint-last.pth"
FORMAT = 2
_LISTED = 8


def save_checkpoint(path: Path, content: Mapping[str, Any], also: Path | None = None) -> None:
    """Write `content` to `path`, and to `also`, as one file each: see `files.write`.

    Shards of an earlier checkpoint-last.pth are removed.
    """
    write(path, content, also)
    if path.name == LAST:
        forget_shards(path.parent)


def load_checkpoint(path: Path, *, mmap: bool = False) -> dict[str, Any]:
    """Read a checkpoint, in one file or in shards, onto the CPU. Raises CheckpointError.

    mmap: leave tensors on the disk until they are looked at.
    """
    content = read(path, mmap=mmap)
    return join(content, path.parent) if FILES in content else content


def model_weights(content: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """The trained weights in a checkpoint, see `entries.take`. Raises CheckpointError if none."""
    try:
        return dict(take(content).weights)
    except Unfit as error:
        raise error.of(path) from error


def load_weights(
    module: nn.Module,
    weights: Mapping[str, Tensor],
    path: Path,
    *,
    allow_partial: bool = False,
    optional: tuple[str, ...] = (),
    size_hint: str = "",
    partial_hint: str = "",
) -> None:
    """Copy weights into the module and account for every key.

    optional: prefixes of keys that may be missing without a word. Raises CheckpointError that
    lists missing and unexpected keys, unless allow_partial, and keys of another shape, always.
    The hints end its message: what the caller's user can do about either.
    """
    own = module.state_dict()
    wrong = [
        f"{name} {tuple(weights[name].shape)} instead of {tuple(own[name].shape)}"
        for name in sorted(own.keys() & weights.keys())
        if own[name].shape != weights[name].shape
    ]
    if wrong:
        raise CheckpointError(f"{path} is of another size: {listed(wrong)}{size_hint}")
    missing = [n for n in own if n not in weights and not n.startswith(optional or ("\0",))]
    unexpected = [name for name in weights if name not in own]
    if missing or unexpected:
        message = f"{path}: missing keys: {listed(missing)}; unexpected keys: {listed(unexpected)}"
        if not allow_partial:
            raise CheckpointError(message + partial_hint)
        log.warning(message)
    fitting = {name: laid_out(weights[name], own[name]) for name in own if name in weights}
    module.load_state_dict(fitting, strict=False)


def find_resume(resume: str, output_dir: Path) -> Path | None:
    """The checkpoint that --resume means: a path, or with "auto" the newest in output_dir."""
    if resume != "auto":
        return Path(resume) if resume else None
    last = output_dir / LAST
    return last if last.exists() else (numbered(output_dir) or [None])[-1]


def numbered(output_dir: Path) -> list[Path]:
    """The checkpoint-N.pth files in a folder, by epoch."""
    found = output_dir.glob("checkpoint-*.pth")
    epochs = {int(m[1]): p for p in found if (m := re.match(r"checkpoint-(\d+)\.pth$", p.name))}
    return [epochs[epoch] for epoch in sorted(epochs)]


def listed(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return (", ".join(names[:_LISTED]) + more) or "none"
