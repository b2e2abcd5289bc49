"""Which launcher started this process, and with which rank: read from environment variables.

Imports no torch, so that a surplus process of a command can exit at once.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import NamedTuple

from fastimae.log import log
from fastimae.settings import Expert, Free, PositiveFloat, Settings

TORCHRUN, OPEN_MPI, SRUN = "torchrun", "Open MPI", "srun"
# Rank, number of processes, rank on this machine. The first launcher found counts: torchrun may run
# inside MPI's processes, and those may be SLURM's steps.
_VARIABLES = {
    TORCHRUN: ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
    OPEN_MPI: ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    "MVAPICH": ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_LOCAL_RANK"),
    "MPI": ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),
    SRUN: ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
}
_STEP, _TASKS, _TERMINAL = "SLURM_STEP_ID", "SLURM_NTASKS", "SLURM_PTY_PORT"
_NO_STEPS = {str(2**32 - number) for number in range(1, 7)}
"""Step ids that do not come from srun: salloc's shell, sbatch's script."""


@dataclasses.dataclass(kw_only=True)
class LaunchSettings(Settings):
    """How the processes of a run find each other."""

    world_size: Expert[Free[int]] = 1
    """Number of processes. The launcher (torchrun, SLURM) sets it; another value is an error."""
    local_rank: Expert[Free[int]] = -1
    """The GPU of this process, set by old launchers."""
    dist_on_itp: Expert[Free[bool]] = False
    """Take ranks from Open MPI's environment variables."""
    dist_url: Expert[Free[str]] = "env://"
    """Address where the processes meet."""
    dist_timeout: Expert[Free[PositiveFloat]] = 600
    """Seconds that processes wait for each other before they give up."""


class Launched(NamedTuple):
    """This process among those that a launcher started together."""

    rank: int
    size: int
    local: int
    """Its rank on this machine, -1 if unknown."""
    launcher: str


def read_launch(env: Mapping[str, str], *, open_mpi: bool = False) -> Launched | None:
    """Return this process's rank in a run; None if no launcher started it.

    open_mpi: take the ranks of Open MPI (--dist_on_itp). Raises ValueError if each of several
    processes would run as if it were alone.
    """
    if open_mpi:
        if (found := _read_variables(OPEN_MPI, env)) is None:
            raise ValueError("--dist_on_itp: Open MPI's variables are not set, use mpirun")
        return found
    found = read_any_launch(env)
    if found and found.size > 1 and found.launcher not in (TORCHRUN, SRUN):
        rank, size, _ = _VARIABLES[found.launcher]
        raise ValueError(
            f"{found.launcher} started {found.size} processes, each of which would run alone: use "
            f"torchrun, or set RANK=${rank} and WORLD_SIZE=${size} in each"
            + (" (fastimae-train: --dist_on_itp)" if found.launcher == OPEN_MPI else "")
        )
    return found


def read_any_launch(env: Mapping[str, str]) -> Launched | None:
    """Return this process's rank by any launcher, even one that runs do not take ranks from."""
    if "RANK" in env and "WORLD_SIZE" not in env:
        raise ValueError(f"RANK={env['RANK']} is set and WORLD_SIZE is not: unset RANK")
    known = [found for launcher in _VARIABLES if (found := _read_variables(launcher, env))]
    if not known:
        return None
    first, last = known[0], known[-1]
    # srun can set MPI's variables, too: then it is the launcher.
    srun_sets_mpi = first.launcher != TORCHRUN and first[:2] == last[:2]
    return last if srun_sets_mpi else first


def is_surplus_process(command: str) -> bool:
    """Return whether this process must do nothing, as `command` needs only the first process."""
    try:
        found = read_any_launch(os.environ)
    except ValueError:  # they are another program's variables
        return False
    if found is None or found.rank == 0:
        return False
    log.warning(
        "%s needs one process: this one, %s=%d of %d, does nothing (unset it to run here, too)",
        command, _VARIABLES[found.launcher][0], found.rank, found.size,
    )  # fmt: skip
    return True


def without_ranks(env: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without ranks, for a command that is no process of this run."""
    names = {_TASKS, *(name for names in _VARIABLES.values() for name in names)}
    return {name: value for name, value in env.items() if name not in names}


def is_batch_script(env: Mapping[str, str]) -> bool:
    """Return whether SLURM has several tasks, but srun did not start this process as one."""
    return read_any_launch(env) is None and env.get(_TASKS, "1") != "1"


def _read_variables(launcher: str, env: Mapping[str, str]) -> Launched | None:
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
    """Return the variable with the number of tasks that srun started, this process among them; ""
    in a batch script or shell, which has the variables of a single task, too."""
    typed = _TERMINAL in env and os.isatty(0)  # srun --pty gives only one task a terminal
    if typed or env.get(_STEP) in _NO_STEPS:
        return ""
    _, size, _ = _VARIABLES[SRUN]
    if size not in env and env.get("SLURM_PROCID", "0") != "0":
        return _TASKS  # a script is always number 0
    return size


def _number(name: str, env: Mapping[str, str]) -> int:
    try:
        return int(env.get(name, -1))
    except ValueError:
        raise ValueError(f"{name}={env[name]} is not a number: unset it") from None
