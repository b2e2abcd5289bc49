"""This process's rank, the world size and the device, however the processes were launched."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import threading
from collections.abc import Iterator
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from fastimae.engine.graph import forget_graphs
from fastimae.engine.launcher import (
    TORCHRUN,
    Launched,
    LaunchSettings,
    is_batch_script,
    read_launch,
)
from fastimae.log import log
from fastimae.machine import cpu_model
from fastimae.wording import first_line

PATIENCE_SECONDS = 30
"""Waiting longer than this for the other processes is logged."""
# Process groups after `close`. DistributedDataParallel refers to one, too, and must not be the last
# to do so: torch would hold the GIL while it waits for gloo's threads, which wait for the GIL.
_CLOSED_GROUPS: list[dist.ProcessGroup] = []

# Errors of gloo, NCCL and the store about a process that they cannot reach.
_PEER_LOST = re.compile(
    "gloo|nccl|closed by peer|reset by peer|broken pipe|remote peer", re.IGNORECASE
)


class ProcessLost(ConnectionError):
    """Another process of the run is gone or does not answer. The message says how to resume."""


class StopVote:
    """Agreement of all processes on the step to stop before, without waiting for each other.

    The store holds the number of the latest step that any process has begun, or "stop N". Changes
    are atomic: when "stop N" is written, no process has begun step N, and all will see it.
    """

    def __init__(self, store: dist.Store) -> None:
        self.store, self.step = store, 0
        self._compare_and_set("", "0")

    def __call__(self, asked: bool) -> bool:
        """Return whether to stop now. Call it before each step. asked: this process wants to."""
        self.step += 1
        stop = "stop " if asked else ""
        stored = self._compare_and_set(str(self.step - 1), f"{stop}{self.step}")
        while asked and not stored.startswith("stop"):  # another process is ahead
            stored = self._compare_and_set(stored, f"stop {int(stored) + 1}")
        return stored == f"stop {self.step}"

    def _compare_and_set(self, expected: str, new: str) -> str:
        """Store `new` if `expected` is stored; return the value now stored."""
        return self.store.compare_set("fastimae/step", expected, new).decode()


@dataclasses.dataclass(frozen=True)
class World:
    """This process's rank among `size` processes, and the device it computes on."""

    rank: int
    size: int
    device: torch.device
    vote: StopVote | None = None

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    @property
    def device_name(self) -> str:
        """The model of the GPU or CPU that this process computes on."""
        on_gpu = self.device.type == "cuda"
        return torch.cuda.get_device_name(self.device) if on_gpu else cpu_model()

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean over all processes."""
        if self.size > 1:
            values = values.clone()
            dist.all_reduce(values)
            values /= self.size
        return values

    def all(self, values: Tensor) -> list[Tensor]:
        """Return the values of each process, by rank."""
        if self.size == 1:
            return [values]
        everyone = [torch.empty_like(values) for _ in range(self.size)]
        dist.all_gather(everyone, values.contiguous())
        return everyone

    def max(self, number: int) -> int:
        """Return the largest number of all processes."""
        if self.size == 1:
            return number
        largest = torch.tensor(number, device=self.device)
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
        return int(largest.item())

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set in any process."""
        return bool(self.max(int(flag)))

    def should_stop(self, asked: bool) -> bool:
        """Return whether all processes stop before the next step, because one was asked to."""
        return self.vote(asked) if self.vote else asked

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Raise ProcessLost if the block fails because another process is gone."""
        try:
            yield
        except RuntimeError as error:
            lost = isinstance(error, dist.DistError) or _PEER_LOST.search(str(error))
            if self.size == 1 or not lost:
                raise
            raise ProcessLost(
                f"process {self.rank} lost another process of the run "
                f"({_first_sentence(error)}), which may say why: start all of them again with "
                "--resume auto to continue from the last checkpoint"
            ) from error

    def close(self) -> None:
        """Leave the process group."""
        if self.size > 1:
            forget_graphs()
            _CLOSED_GROUPS.append(dist.group.WORLD)
            dist.destroy_process_group()


ALONE = World(0, 1, torch.device("cpu"))
"""One process on the CPU."""


def join_world(device: str, launch: LaunchSettings | None = None) -> World:
    """Join the processes that torchrun, SLURM or Open MPI started, if any.

    Raises ValueError, naming the flag, if the device is missing, the launcher started another
    number of processes than --world_size, or the processes do not find each other.
    """
    launch = launch or LaunchSettings()
    found = read_launch(os.environ, open_mpi=launch.dist_on_itp)
    rank, size, local, launcher = found or Launched(0, 1, -1, "")
    if launch.world_size not in (1, size):
        raise ValueError(
            f"--world_size {launch.world_size}, but {size} process(es) were started: "
            f"use torchrun --nproc_per_node={launch.world_size} --no-python fastimae-train ..."
        )
    chosen = _device(device, local if local >= 0 else max(launch.local_rank, 0))
    if size == 1:
        if is_batch_script(os.environ):
            log.warning("SLURM has several tasks, but srun did not start this one: it runs alone")
        return World(rank, size, chosen)
    _check_address(launch.dist_url, rank, size, launcher)
    patience = timedelta(seconds=launch.dist_timeout)
    store = _meet(launch.dist_url, rank, size, chosen, patience)
    return World(rank, size, chosen, StopVote(store))


def alone(device: str) -> World:
    """Return a world of this process alone, even under a launcher. Raises ValueError."""
    return World(0, 1, _device(device, 0))


def _check_address(url: str, rank: int, size: int, launcher: str) -> None:
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if url == "env://" and missing:
        raise ValueError(
            f"this is process {rank} of {size} by the variables of {launcher}, but "
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set: export where "
            "the processes meet (docs/launch.md)"
            + (", or unset RANK and WORLD_SIZE to run alone" if launcher == TORCHRUN else "")
        )


def _meet(url: str, rank: int, size: int, device: torch.device, timeout: timedelta) -> dist.Store:
    """Create the process group; return the store that the processes share."""
    try:
        with _log_if_slow(f"process {rank} of {size} waits for the others at --dist_url {url}"):
            store, _, _ = next(dist.rendezvous(url, rank, size, timeout=timeout))
            store.set_timeout(timeout)
            backend = "nccl" if device.type == "cuda" else "gloo"
            group_store = dist.PrefixStore("group", store)
            dist.init_process_group(
                backend, store=group_store, rank=rank, world_size=size, timeout=timeout
            )
    except RuntimeError as error:
        raise ValueError(
            f"process {rank} of {size} did not meet the others at --dist_url {url} within "
            f"--dist_timeout {timeout.total_seconds():g} s ({_first_sentence(error)}): are all "
            "started, with one MASTER_ADDR and MASTER_PORT?"
        ) from error
    return store


@contextlib.contextmanager
def _log_if_slow(line: str) -> Iterator[None]:
    """Log the line if the block takes longer than PATIENCE_SECONDS."""
    timer = threading.Timer(PATIENCE_SECONDS, log.warning, [line])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


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


def _first_sentence(error: RuntimeError) -> str:
    """Return the first sentence of torch's error, without the position in torch's source."""
    return re.sub(r"^\[\S*\] ", "", first_line(error)).split(". ")[0]
