"""Sharded checkpoints: each process writes the rows it holds, and an index joins them.

    checkpoint-last.pth         the index: everything but sharded rows, and the names of their files
    shards-7/rank-0-of-2.pth    the rows that process 0 held of each sharded tensor

The index is written last, when all shards are in place: a crash leaves the old checkpoint or the
new one. Reading the index gives unsharded tensors, for any number of processes.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastimae.engine.checkpoint_file import CheckpointError, read, write
from fastimae.engine.distributed import World
from fastimae.engine.fail_together import fail_together

FILES = "shards"
_ROWS = "rows_in_shards"


def save_sharded(
    path: Path, content: Mapping[str, Any], world: World, also: Path | None = None
) -> None:
    """Write this process's part of `content`; the main process also writes the index `path`.

    All processes must call it. also: another path, for a copy that the main process joins into one
    plain file. Raises CheckpointError, in every process, if one of them cannot write.
    """
    number = world.max(1 + max([0, *map(_number, path.parent.glob("shards-*"))]))
    names = [f"shards-{number}/rank-{rank}-of-{world.size}.pth" for rank in range(world.size)]
    index, rows = split(content)
    lost = CheckpointError(
        f"cannot save {path}: another process could not write its part (see its message); "
        "earlier checkpoints are untouched"
    )
    folder = path.parent / f"shards-{number}"
    try:
        with fail_together(world, lost):
            folder.mkdir(exist_ok=True)
            write(path.parent / names[world.rank], rows)
        with fail_together(world, lost):
            if world.is_main:
                index = {**index, FILES: names}
                if also:
                    write(also, join(index, path.parent))
                write(path, index)
    except (CheckpointError, OSError) as error:
        shutil.rmtree(folder, ignore_errors=True)  # makes room for the next attempt
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"cannot save {path} ({error}); earlier ones stay") from error
    if world.is_main:
        forget_shards(path.parent, but=f"shards-{number}")


def split(content: Any, name: str = "") -> tuple[Any, dict[str, Tensor]]:
    """Split plain data into all but its sharded tensors, and this process's rows of these."""
    if _is_sharded(content):
        own = local(content).detach().to("cpu", copy=True)
        return {_ROWS: name, "shape": list(content.shape)}, {name: own}
    if not isinstance(content, dict):
        return content, {}
    rest, rows = {}, {}
    for key, value in content.items():
        rest[key], more = split(value, f"{name}/{key}")
        rows |= more
    return rest, rows


def join(index: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Join `index` and the files it names, in `folder`, into one content.

    Raises CheckpointError, naming the file, if one is missing, damaged or from another save.
    """
    paths = [folder / name for name in index[FILES]]
    parts = [read(path, mmap=True) for path in paths]

    def joined(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        if _ROWS not in value:
            return {key: joined(item) for key, item in value.items()}
        return _join_rows(value[_ROWS], value["shape"], paths, parts)

    return joined({key: value for key, value in index.items() if key != FILES})


def forget_shards(folder: Path, but: str = "") -> None:
    """Remove all shards from the folder except those in the subfolder `but`."""
    for stale in folder.glob("shards-*"):
        if stale.name != but:
            shutil.rmtree(stale, ignore_errors=True)


def local(tensor: Tensor) -> Tensor:
    """Return this process's rows of a sharded tensor, in their memory; of others, all of it."""
    return tensor.to_local() if _is_sharded(tensor) else tensor


def shard_like(tensor: Tensor, like: Tensor) -> Tensor:
    """Shard a tensor if `like` is sharded: return this process's rows of it, else the tensor."""
    if not _is_sharded(like) or _is_sharded(tensor):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)


def shard_state_like(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Shard an optimizer's unsharded `state_dict` like its parameters."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    of_parameters = {
        number: {
            name: shard_like(value, parameters[number])
            if torch.is_tensor(value) and value.shape == parameters[number].shape
            else value
            for name, value in values.items()
        }
        for number, values in state["state"].items()
    }
    return {**state, "state": of_parameters}


def _join_rows(name: str, shape: list[int], paths: list[Path], parts: list[dict]) -> Tensor:
    """Join rows that FSDP2 split like torch.chunk: equal shares, fewer or none for the last."""
    share = -(-shape[0] // len(parts))
    for rank, (path, rows) in enumerate(zip(paths, parts, strict=True)):
        expected = [max(0, min(share, shape[0] - rank * share)), *shape[1:]]
        if name not in rows or list(rows[name].shape) != expected:
            raise CheckpointError(f"{path} is of another checkpoint: its rows of {name} do not fit")
    return torch.cat([rows[name] for rows in parts])


def _is_sharded(value: Any) -> bool:
    """Return whether it is a DTensor. Only FSDP2 makes them here, sharded by rows."""
    return hasattr(value, "to_local")


def _number(folder: Path) -> int:
    """Return N of a folder called shards-N, else 0."""
    found = re.fullmatch(r"shards-(\d+)", folder.name)
    return int(found[1]) if found else 0
