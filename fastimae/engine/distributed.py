"""Who I am among the processes of a run, however they were launched."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor

# rank, processes, rank on this machine: torchrun, then SLURM's srun.
_LAUNCHERS = (
    ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
    ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"),
)
_OPEN_MPI = ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK")


@dataclasses.dataclass(frozen=True)
class World:
    """This process among `size`, and the device it computes on."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def mean(self, values: Tensor) -> Tensor:
        """Mean over all processes."""
        if self.size > 1:
            values = values.clone()
            dist.all_reduce(values)
            values /= self.size
        return values

    def any(self, flag: bool) -> bool:
        """Whether the flag is up in any process."""
        if self.size == 1:
            return flag
        flags = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(flags, op=dist.ReduceOp.MAX)
        return bool(flags.item())

    def close(self) -> None:
        """Leave the group of processes."""
        if self.size > 1:
            dist.destroy_process_group()


def join_world(
    device: str = "auto",
    *,
    world_size: int = 1,
    local_rank: int = -1,
    dist_on_itp: bool = False,
    dist_url: str = "env://",
) -> World:
    """Join the processes that torchrun, SLURM or Open MPI started; alone where none did.

    Raises ValueError, naming the flag, where the device is missing or the launcher started
    another number of processes than world_size says.
    """
    ranks = _ranks(os.environ, dist_on_itp)
    rank, size, local = ranks or (0, 1, 0)
    if world_size not in (1, size):
        raise ValueError(
            f"--world_size {world_size}, but {size} process(es) were started: "
            f"use torchrun --nproc_per_node={world_size} --no-python fastimae-train ..."
        )
    chosen = _device(device, local if ranks and local >= 0 else max(local_rank, 0))
    if size > 1:
        backend = "nccl" if chosen.type == "cuda" else "gloo"
        dist.init_process_group(backend, init_method=dist_url, rank=rank, world_size=size)
    return World(rank, size, chosen)


def _ranks(env: Mapping[str, str], open_mpi: bool) -> tuple[int, int, int] | None:
    if open_mpi and _OPEN_MPI[0] not in env:
        raise ValueError("--dist_on_itp: Open MPI's environment is not there, start with mpirun")
    for names in (_OPEN_MPI,) if open_mpi else _LAUNCHERS:
        if names[0] in env and names[1] in env:
            return int(env[names[0]]), int(env[names[1]]), int(env.get(names[2], -1))
    return None


def _device(name: str, local_rank: int) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"--device {name}: use cuda, cuda:N, cpu or auto") from error
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ValueError(f"--device {name}: torch sees no CUDA device; use --device cpu")
        if device.index is None:
            device = torch.device("cuda", local_rank)
        if device.index >= torch.cuda.device_count():
            raise ValueError(f"--device {device}: there are {torch.cuda.device_count()} GPUs")
        torch.cuda.set_device(device)
    return device
