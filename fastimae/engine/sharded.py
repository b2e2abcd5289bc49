"""Checkpoints in parts: each process writes the rows it holds, an index tells how to join them.

    checkpoint-last.pth         the index: everything but those rows, and the names of their files
    shards-7/rank-0-of-2.pth    of each sharded tensor the rows that process 0 held

The index is written last, into a folder where its shards already are: a crash leaves the old
checkpoint or the new one. Whoever reads the index gets whole tensors, for any number of processes.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastimae.engine.claim import agreed
from fastimae.engine.distributed import World
from fastimae.engine.files import CheckpointError, read, write

FILES = "shards"
_ROWS = "rows_in_shards"


def save_sharded(
    path: Path, content: Mapping[str, Any], world: World, also: Path | None = None
) -> None:
    """Write this process's part of `content`, and from the main process the index `path`.

    All processes call it. also: a copy to keep, which the main process joins into one plain file.
    Raises CheckpointError, in every process, where one of them cannot write.
    """
    number = world.max(1 + max([0, *map(_number, path.parent.glob("shards-*"))]))
    names = [f"shards-{number}/rank-{rank}-of-{world.size}.pth" for rank in range(world.size)]
    index, rows = split(content)
    lost = CheckpointError(
        f"cannot save {path}: another process could not write its part (it says why); "
        "earlier checkpoints are untouched"
    )
    with agreed(world, lost):
        (path.parent / names[0]).parent.mkdir(exist_ok=True)
        write(path.parent / names[world.rank], rows)
    with agreed(world, lost):
        if world.is_main:
            index = {**index, FILES: names}
            if also:
                write(also, join(index, path.parent))
            write(path, index)
    if world.is_main:
        forget_shards(path.parent, but=f"shards-{number}")


def split(content: Any, name: str = "") -> tuple[Any, dict[str, Tensor]]:
    """Plain data without its sharded tensors, and this process's rows of each, by name."""
    if _is_sharded(content):
        local = content.to_local().detach().to("cpu", copy=True)
        return {_ROWS: name, "shape": list(content.shape)}, {name: local}
    if not isinstance(content, dict):
        return content, {}
    rest, rows = {}, {}
    for key, value in content.items():
        rest[key], more = split(value, f"{name}/{key}")
        rows |= more
    return rest, rows


def join(index: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The content of which `index` and the files it names, in `folder`, are the parts.

    Raises CheckpointError that names the file which is missing, damaged or of another save.
    """
    paths = [folder / name for name in index[FILES]]
    parts = [read(path, mmap=True) for path in paths]

    def whole(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        if _ROWS not in value:
            return {key: whole(item) for key, item in value.items()}
        return _join_rows(value[_ROWS], value["shape"], paths, parts)

    return whole({key: value for key, value in index.items() if key != FILES})


def forget_shards(folder: Path, but: str = "") -> None:
    """Remove shards that no index names any more."""
    for stale in folder.glob("shards-*"):
        if stale.name != but:
            shutil.rmtree(stale, ignore_errors=True)


def laid_out(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor as `like` is: where that is sharded, this process's rows of it."""
    if not _is_sharded(like):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)


def laid_out_state(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimizer's `state_dict` of whole tensors, for parameters that may be sharded."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    of_parameters = {
        number: {
            name: laid_out(value, parameters[number])
            if torch.is_tensor(value) and value.shape == parameters[number].shape
            else value
            for name, value in values.items()
        }
        for number, values in state["state"].items()
    }
    return {**state, "state": of_parameters}


def _join_rows(name: str, shape: list[int], paths: list[Path], parts: list[dict]) -> Tensor:
    """FSDP2 deals rows as torch.chunk does: equal shares, but the last ones get fewer or none."""
    share = -(-shape[0] // len(parts))
    for rank, (path, rows) in enumerate(zip(paths, parts, strict=True)):
        own = [max(0, min(share, shape[0] - rank * share)), *shape[1:]]
        if name not in rows or list(rows[name].shape) != own:
            raise CheckpointError(f"{path} is of another checkpoint: its rows of {name} do not fit")
    return torch.cat([rows[name] for rows in parts])


def _is_sharded(value: Any) -> bool:
    """Whether it is a DTensor; only FSDP2 makes them here, in rows."""
    return hasattr(value, "to_local")


def _number(folder: Path) -> int:
    found = re.fullmatch(r"shards-(\d+)", folder.name)
    return int(found[1]) if found else 0
