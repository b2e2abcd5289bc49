"""Which launcher started this process, and as which of how many: what environments tell.

Read without torch, so that a command of one process can step aside at once.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import NamedTuple

from fastimae.log import log
from fastimae.settings import Free, PositiveFloat, Settings

TORCHRUN, OPEN_MPI, SRUN = "torchrun", "Open MPI", "srun"
# Rank, processes, rank on this machine. The first one found counts: torchrun may run in processes
# of MPI's, and those may be steps of SLURM's.
_VARIABLES = {
    TORCHRUN: ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
    OPEN_MPI: ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    "MVAPICH": ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_LOCAL_RANK"),
    "MPI": ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),
    SRUN: ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
}
_STEP, _TASKS, _TERMINAL = "SLURM_STEP_ID", "SLURM_NTASKS", "SLURM_PTY_PORT"
_NO_STEPS = {str(2**32 - number) for number in range(1, 7)}
"""Numbers of "steps" that srun did not start: salloc's shell, sbatch's script."""


@dataclasses.dataclass(kw_only=True)
class LaunchSettings(Settings):
    """How the processes of a run find each other."""

    world_size: Free[int] = 1
    """Checked against the launcher's (torchrun, SLURM), which sets it."""
    local_rank: Free[int] = -1
    """Set by old launchers: the GPU of this process."""
    dist_on_itp: Free[bool] = False
    """Take ranks from Open MPI's environment."""
    dist_url: Free[str] = "env://"
    """Where processes meet."""
    dist_timeout: Free[PositiveFloat] = 600
    """Seconds that processes wait for each other before they give up."""


class Launched(NamedTuple):
    """One of the processes that were started together."""

    rank: int
    size: int
    local: int
    """Its number on this machine; -1 where that is not told."""
    launcher: str


def launched(env: Mapping[str, str], *, open_mpi: bool = False) -> Launched | None:
    """This process among those of a run; None where nobody launched it.

    open_mpi: take the ranks of Open MPI (--dist_on_itp). Raises ValueError where each of several
    processes would take itself for the only one.
    """
    if open_mpi:
        if (found := _told_by(OPEN_MPI, env)) is None:
            raise ValueError("--dist_on_itp: Open MPI's environment is not there, use mpirun")
        return found
    found = started(env)
    if found and found.size > 1 and found.launcher not in (TORCHRUN, SRUN):
        rank, size, _ = _VARIABLES[found.launcher]
        raise ValueError(
            f"{found.launcher} started {found.size} processes, each of which would run alone: use "
            f"torchrun, or set RANK=${rank} and WORLD_SIZE=${size} in each"
            + (" (fastimae-train: --dist_on_itp)" if found.launcher == OPEN_MPI else "")
        )
    return found


def started(env: Mapping[str, str]) -> Launched | None:
    """The same by any launcher, whether or not a run would take its ranks from there."""
    if "RANK" in env and "WORLD_SIZE" not in env:
        raise ValueError(f"RANK={env['RANK']} is set and WORLD_SIZE is not: unset RANK")
    told = [found for launcher in _VARIABLES if (found := _told_by(launcher, env))]
    if not told:
        return None
    first, last = told[0], told[-1]
    speaks_mpi = first.launcher != TORCHRUN and first[:2] == last[:2]  # as srun can
    return last if speaks_mpi else first


def stands_aside(command: str) -> bool:
    """Whether this process has to leave `command`, which takes one process, to the first one."""
    try:
        found = started(os.environ)
    except ValueError:  # variables of somebody else
        return False
    if found is None or found.rank == 0:
        return False
    log.warning(
        "%s takes one process: this one, %s=%d of %d, does nothing (unset that to run it too)",
        command, _VARIABLES[found.launcher][0], found.rank, found.size,
    )  # fmt: skip
    return True


def without_ranks(env: Mapping[str, str]) -> dict[str, str]:
    """The environment of a command that shall be a process of its own, not one of ours."""
    names = {_TASKS, *(name for names in _VARIABLES.values() for name in names)}
    return {name: value for name, value in env.items() if name not in names}


def is_script_of_many(env: Mapping[str, str]) -> bool:
    """Whether SLURM has room for several tasks, but srun did not start this process as one."""
    return started(env) is None and env.get(_TASKS, "1") != "1"


def _told_by(launcher: str, env: Mapping[str, str]) -> Launched | None:
    rank, size, local = _VARIABLES[launcher]
    if launcher == SRUN:
        size = _size_of_step(env)
    if rank not in env or size not in env:
        return None
    found = Launched(_number(rank, env), _number(size, env), _number(local, env), launcher)
    if not 0 <= found.rank < found.size:
        raise ValueError(f"{rank}={found.rank} does not fit {size}={found.size}: unset them")
    return found


def _size_of_step(env: Mapping[str, str]) -> str:
    """The variable with the number of tasks that srun started, this process among them; "" where
    it is a script's or a shell's: that has the variables of a task, too, of one that is alone."""
    typed = _TERMINAL in env and os.isatty(0)  # srun --pty gives a terminal to one task only
    if typed or env.get(_STEP) in _NO_STEPS:
        return ""
    _, size, _ = _VARIABLES[SRUN]
    if size not in env and env.get("SLURM_PROCID", "0") != "0":
        return _TASKS  # no script has such a number
    return size


def _number(name: str, env: Mapping[str, str]) -> int:
    try:
        return int(env.get(name, -1))
    except ValueError:
        raise ValueError(f"{name}={env[name]} is not a number: unset it") from None
