"""Two ranks of a run as threads of this process, for tasks that only average over ranks."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

from fastimae.engine.distributed import World


class Ranks:
    """What the ranks share."""

    def __init__(self) -> None:
        self.barrier, self.values = threading.Barrier(2, timeout=60), [None, None]


class Rank(World):
    """A rank whose `mean` waits for the other's values."""

    shared: Ranks

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Return the mean over both ranks."""
        self.shared.values[self.rank] = values.clone()
        self.shared.barrier.wait()
        total = torch.stack(self.shared.values).sum(0)
        self.shared.barrier.wait()
        return total / 2


def in_two_ranks(work: Callable[[World], object]) -> list:
    """Return what each of two ranks does, by rank."""
    kind = type("Both", (Rank,), {"shared": Ranks()})
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(work, [kind(rank, 2, torch.device("cpu")) for rank in (0, 1)]))
