"""One process's share in training an objective: alone, by torch's DDP, or sharded by FSDP2."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

if TYPE_CHECKING:
    from fastimae.loaders.base import Batch
    from fastimae.objectives.base import Objective


class Replica:
    """An objective that one process trains alone. Subclasses average gradients over processes.

    A step calls the replica in the objective's place, and each pass is inside `sync_gradients`.
    What a CUDA graph records cannot depend on which pass of a step is the last: there, passes are
    inside `accumulate`, and `average` follows them.
    """

    averages = False
    """Whether gradients are averaged over several processes."""
    takes_copies = True
    """Whether its weights may be replaced by `WeightCopies` during a pass."""
    sums_gradients = False
    """Whether it adds up the gradients of a step's passes itself, those of copies included."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        return self.objective(batch)

    def set_image_size(self, size: tuple[int, int]) -> None:
        """Let the objective take images of another size: see there."""
        self.objective.set_image_size(size)

    def use_copies(self, copies: Mapping[nn.Parameter, Tensor]) -> None:
        """Learn, before the first pass, which copies receive gradients in their masters' place."""

    @contextlib.contextmanager
    def sync_gradients(self, last: bool) -> Iterator[None]:
        """Surround a forward and backward pass. Gradients are averaged in the `last` one of a step;
        until then each process adds up its own."""
        yield

    @contextlib.contextmanager
    def accumulate(self) -> Iterator[None]:
        """Surround a recorded pass, whose gradients are added to those of earlier passes."""
        yield

    def average(self) -> None:
        """Average the gradients that passes inside `accumulate` have added up."""

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set here or in a process that gradients are averaged with."""
        return flag

    def heartbeat(self) -> None:
        """Check after a replayed step that the other processes are alive."""


class DDPReplica(Replica):
    """A replica whose gradients torch's DistributedDataParallel averages."""

    averages = True
    takes_copies = False

    def __init__(self, objective: Objective, ddp: DistributedDataParallel) -> None:
        super().__init__(objective)
        self.ddp = ddp

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        return self.ddp(batch)

    @contextlib.contextmanager
    def sync_gradients(self, last: bool) -> Iterator[None]:
        with contextlib.nullcontext() if last else self.ddp.no_sync():
            yield


class ShardedReplica(Replica):
    """A replica whose parameters FSDP2 has sharded, in place."""

    averages = True
    takes_copies = False

    def set_image_size(self, size: tuple[int, int]) -> None:
        # FSDP2 reads parameters as attributes once, when it first gathers them: before any is
        # hidden. After pictures they are still gathered, and rounded to bf16.
        self.objective.unshard()
        self.objective.reshard()
        super().set_image_size(size)

    @contextlib.contextmanager
    def sync_gradients(self, last: bool) -> Iterator[None]:
        self.objective.set_requires_gradient_sync(last)
        self.objective.set_is_last_backward(last)
        yield
