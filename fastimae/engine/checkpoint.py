"""Checkpoints: save, find and load them, and copy their weights into models."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fastimae.engine.checkpoint_file import CheckpointError, Unfit, read, write
from fastimae.engine.find_weights import find_weights
from fastimae.engine.sharded import FILES, forget_shards, join, shard_like
from fastimae.log import log

LAST = "checkpoint-last.pth"
FORMAT = 2
_LISTED = 8
"""Names that an error message lists."""


def save_checkpoint(path: Path, content: Mapping[str, Any], also: Path | None = None) -> None:
    """Write `content` to `path`, and to `also` if given: see `checkpoint_file.write`.

    Shards of an earlier checkpoint-last.pth are removed.
    """
    write(path, content, also)
    if path.name == LAST:
        forget_shards(path.parent)


def load_checkpoint(path: Path, *, mmap: bool = False) -> dict[str, Any]:
    """Read a checkpoint, in one file or in shards, onto the CPU. Raises CheckpointError.

    mmap: leave tensors on disk until they are used.
    """
    content = read(path, mmap=mmap)
    return join(content, path.parent) if FILES in content else content


def model_weights(content: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """Return a checkpoint's trained weights, see `find_weights`. Raises CheckpointError if none."""
    try:
        return dict(find_weights(content).weights)
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

    optional: prefixes of keys that may be missing silently. size_hint, partial_hint: end the error
    messages with what the user can do. Raises CheckpointError for keys of another shape and, unless
    allow_partial, for missing or unexpected keys.
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
    fitting = {name: shard_like(weights[name], own[name]) for name in own if name in weights}
    module.load_state_dict(fitting, strict=False)


def find_resume(resume: str, output_dir: Path) -> Path | None:
    """Return the checkpoint that --resume names: a path, or the newest in output_dir for "auto"."""
    if resume != "auto":
        return Path(resume) if resume else None
    last = output_dir / LAST
    return last if last.exists() else (numbered_checkpoints(output_dir) or [None])[-1]


def numbered_checkpoints(output_dir: Path) -> list[Path]:
    """Return the checkpoint-N.pth files of a folder, by epoch."""
    found = output_dir.glob("checkpoint-*.pth")
    epochs = {int(m[1]): p for p in found if (m := re.match(r"checkpoint-(\d+)\.pth$", p.name))}
    return [epochs[epoch] for epoch in sorted(epochs)]


def listed(names: Sequence[str]) -> str:
    """Return the first few names as text, and how many more there are."""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return (", ".join(names[:_LISTED]) + more) or "none"
