"""The CPU cores that this process may use, and its share of them among the processes of a run."""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path, PurePosixPath

_CGROUPS = Path("/proc/self/cgroup")
_MOUNT = Path("/sys/fs/cgroup")


def worker_count(asked: int | None) -> int:
    """Return how many workers load images: as many as asked for; None: one per core.

    The processes that torchrun started on this machine share its cores equally.
    """
    if asked is not None:
        return asked
    return max(1, usable_cores() // (_from_environment("LOCAL_WORLD_SIZE") or 1))


def usable_cores() -> int:
    """Return how many CPU cores this process may use.

    The limits are its affinity (taskset, srun), the quota of its container (docker --cpus), and
    --cpus-per-task of SLURM.
    """
    known = hasattr(os, "sched_getaffinity")
    limits = [len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1]
    limits += [math.ceil(quota) for quota in cpu_quotas()]
    limits += filter(None, [_from_environment("SLURM_CPUS_PER_TASK")])
    return max(1, min(limits))


def cpu_quotas(cgroups: Path = _CGROUPS, mount: Path = _MOUNT) -> list[float]:
    """Return the CPU quotas, in cores, of this process's control groups of version 1 or 2.

    cgroups: lists them, as /proc/self/cgroup does. mount: the folder where they are mounted.
    """
    lines = cgroups.read_text().splitlines() if cgroups.exists() else []
    found = []
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if controllers and "cpu" not in controllers.split(","):
            continue
        # A container may see its own group as the root, but be told the path on the host.
        group = PurePosixPath(path.lstrip("/"))
        found += (_quota_of(mount / controllers / each) for each in (group, *group.parents))
    return [quota for quota in found if quota is not None]


def _quota_of(folder: Path) -> float | None:
    """Return the quota of a control group; None if it has none."""
    with contextlib.suppress(OSError, ValueError):
        if (folder / "cpu.max").exists():  # version 2: "QUOTA PERIOD", or "max PERIOD"
            quota, period = map(float, (folder / "cpu.max").read_text().split())
        else:
            quota = float((folder / "cpu.cfs_quota_us").read_text())  # -1: none
            period = float((folder / "cpu.cfs_period_us").read_text())
        return quota / period if quota > 0 else None
    return None


def _from_environment(name: str) -> int | None:
    """Return a variable that holds a positive number; None if it is not set, or anything else."""
    value = os.environ.get(name, "")
    return int(value) if value.isdecimal() and int(value) > 0 else None
