"""Who I am among the processes of a run, however they were launched."""

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

from fastimae.engine.launcher import (
    TORCHRUN,
    Launched,
    LaunchSettings,
    is_script_of_many,
    launched,
)
from fastimae.log import log

PATIENCE_SECONDS = 30
"""Others that take longer to come are waited for aloud."""
# Groups that were left. DistributedDataParallel holds one, too, and must not be the last to let go:
# torch would then wait, with the interpreter's lock, for gloo's threads, which wait for that lock.
_LEFT: list[dist.ProcessGroup] = []

# What gloo, NCCL and the store say of a process that they cannot reach.
_OF_PEERS = re.compile(
    "gloo|nccl|closed by peer|reset by peer|broken pipe|remote peer", re.IGNORECASE
)


class ProcessLost(ConnectionError):
    """Another process of the run is gone or does not answer. The message says how to go on."""


class StopVote:
    """How processes agree before which step to stop, without waiting for each other or a device.

    The store holds the number of the latest step that a process has begun, or "stop N". Changes
    are atomic, so that nobody has begun step N when it is written, and everybody finds it there.
    """

    def __init__(self, store: dist.Store) -> None:
        self.store, self.step = store, 0
        self._change("", "0")

    def __call__(self, asked: bool) -> bool:
        """Whether to stop now; called before every step, by all. asked: this process wants to."""
        self.step += 1
        stop = "stop " if asked else ""
        found = self._change(str(self.step - 1), f"{stop}{self.step}")
        while asked and not found.startswith("stop"):  # others are ahead
            found = self._change(found, f"stop {int(found) + 1}")
        return found == f"stop {self.step}"

    def _change(self, before: str, after: str) -> str:
        """Put `after` in the place of `before` if that is there; what is there now."""
        return self.store.compare_set("fastimae/step", before, after).decode()


@dataclasses.dataclass(frozen=True)
class World:
    """This process among `size`, and the device it computes on."""

    rank: int
    size: int
    device: torch.device
    vote: StopVote | None = None

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

    def all(self, values: Tensor) -> list[Tensor]:
        """The values of each process, by rank."""
        if self.size == 1:
            return [values]
        everyone = [torch.empty_like(values) for _ in range(self.size)]
        dist.all_gather(everyone, values.contiguous())
        return everyone

    def max(self, number: int) -> int:
        """Largest number of all processes."""
        if self.size == 1:
            return number
        largest = torch.tensor(number, device=self.device)
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
        return int(largest.item())

    def any(self, flag: bool) -> bool:
        """Whether the flag is up in any process."""
        return bool(self.max(int(flag)))

    def stops(self, asked: bool) -> bool:
        """Whether all stop before the step to come, as one was asked to; waits for nobody."""
        return self.vote(asked) if self.vote else asked

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Raise ProcessLost where something fails for want of another process."""
        try:
            yield
        except RuntimeError as error:
            of_peers = isinstance(error, dist.DistError) or _OF_PEERS.search(str(error))
            if self.size == 1 or not of_peers:
                raise
            raise ProcessLost(
                f"process {self.rank} lost another process of the run ({_short(error)}), which may "
                "say why: start all of them again with --resume auto to go on from the last "
                "checkpoint"
            ) from error

    def close(self) -> None:
        """Leave the group of processes."""
        if self.size > 1:
            _LEFT.append(dist.group.WORLD)
            dist.destroy_process_group()


def join_world(device: str, launch: LaunchSettings | None = None) -> World:
    """Join the processes that torchrun, SLURM or Open MPI started; alone where none did.

    Raises ValueError, naming the flag, where the device is missing, the launcher started another
    number of processes than --world_size says, or they do not find each other.
    """
    launch = launch or LaunchSettings()
    found = launched(os.environ, open_mpi=launch.dist_on_itp)
    rank, size, local, launcher = found or Launched(0, 1, -1, "")
    if launch.world_size not in (1, size):
        raise ValueError(
            f"--world_size {launch.world_size}, but {size} process(es) were started: "
            f"use torchrun --nproc_per_node={launch.world_size} --no-python fastimae-train ..."
        )
    chosen = _device(device, local if local >= 0 else max(launch.local_rank, 0))
    if size == 1:
        if is_script_of_many(os.environ):
            log.warning("SLURM has several tasks, but srun did not start this: it runs alone")
        return World(rank, size, chosen)
    _check_address(launch.dist_url, rank, size, launcher)
    patience = timedelta(seconds=launch.dist_timeout)
    store = _meet(launch.dist_url, rank, size, chosen, patience)
    return World(rank, size, chosen, StopVote(store))


def alone(device: str) -> World:
    """A world of this process only, whoever started it. Raises ValueError for the device."""
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
    """Found the group of processes; returns the store that they share."""
    try:
        with _saying_so(f"process {rank} of {size} waits for the others at --dist_url {url}"):
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
            f"--dist_timeout {timeout.total_seconds():g} s ({_short(error)}): are all started, "
            "with one MASTER_ADDR and MASTER_PORT?"
        ) from error
    return store


@contextlib.contextmanager
def _saying_so(line: str) -> Iterator[None]:
    """Log the line if what is inside takes longer than it should."""
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


def _short(error: RuntimeError) -> str:
    """The first sentence of an error of torch's, without the place in its source."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return re.sub(r"^\[\S*\] ", "", line).split(". ")[0]
