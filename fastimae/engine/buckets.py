"""Buckets that average gradients over processes while the backward pass is still running.

They do what torch's DistributedDataParallel does, with operations that a CUDA graph can record, and
take bf16 gradients: these are summed in fp32, and the mean is not rounded.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

FIRST_BYTES = 1 << 20
"""Size of the first bucket: small, so that communication starts early."""
FULL_BYTES = 25 << 20
"""Size of the others: large enough to use the bandwidth of a link, as in torch's DDP."""
ALIGNMENT = 32
"""In fp32 numbers: each gradient begins at a multiple of 128 bytes, which wide loads need."""


@dataclasses.dataclass(eq=False)
class Bucket:
    """Gradients that are sent together."""

    leaves: list[Tensor]
    sums: list[Tensor]
    """One fp32 view of `flat` for each leaf."""
    flat: Tensor
    missing: set[Tensor] = dataclasses.field(default_factory=set)
    """Leaves whose gradient this backward pass has not computed yet."""

    def collect(self, *, add: bool) -> None:
        """Move the leaves' gradients into `sums`; a missing one counts as zero.

        Clearing `grad` frees their memory while backward still runs.
        """
        arrived = [
            (total, leaf.grad)
            for total, leaf in zip(self.sums, self.leaves, strict=True)
            if leaf.grad is not None
        ]
        if not add and len(arrived) < len(self.leaves):
            self.flat.zero_()
        if arrived:
            into = torch._foreach_add_ if add else torch._foreach_copy_
            into(*map(list, zip(*arrived, strict=True)))
        self.clear()

    def clear(self) -> None:
        """Drop the leaves' gradients."""
        for leaf in self.leaves:
            leaf.grad = None


class Buckets:
    """Means of the leaves' gradients over all processes of the default group.

    All processes must have the same leaves in the same order. Buckets are filled from the last leaf
    to the first, about the order in which backward computes gradients. A bucket is sent once it is
    complete and all buckets before it have been sent: so all processes send the same data in the
    same order, whichever gradient is ready first. The host never waits for a GPU.

    means: the fp32 mean gradient of each leaf, always in the same memory. During accumulation it
    holds the sum so far.
    """

    def __init__(
        self,
        leaves: Sequence[Tensor],
        *,
        first_bytes: int = FIRST_BYTES,
        full_bytes: int = FULL_BYTES,
    ) -> None:
        self.buckets = _make_buckets(leaves[::-1], first_bytes, full_bytes)
        self.means = {
            leaf: total
            for bucket in self.buckets
            for leaf, total in zip(bucket.leaves, bucket.sums, strict=True)
        }
        self.size = dist.get_world_size()
        self.divides = dist.get_backend() == "nccl"  # averages as it sums, for free; gloo cannot
        self.add = self.last = False
        self.next = 0
        self.works: list[dist.Work] = []
        for bucket in self.buckets:
            for leaf in bucket.leaves:
                leaf.register_post_accumulate_grad_hook(self._hook(bucket))

    @contextlib.contextmanager
    def backward(self, *, add: bool = False, last: bool = True) -> Iterator[None]:
        """Surround a forward and backward pass. Gradients already in `grad` are dropped.

        add: add to the sums of earlier passes. last: average the sums while backward runs.
        """
        self.add, self.last, self.next, self.works = add, last, 0, []
        for bucket in self.buckets:
            bucket.missing = set(bucket.leaves)
            bucket.clear()
        yield
        for bucket in self.buckets[self.next :]:
            self._complete(bucket)
        if last:
            self._wait()

    def average(self) -> None:
        """Average the sums of passes that were not marked `last`."""
        self.works = []
        for bucket in self.buckets:
            self._send(bucket)
        self._wait()

    def _hook(self, bucket: Bucket) -> Callable[[Tensor], None]:
        def arrived(leaf: Tensor) -> None:
            if leaf not in bucket.missing:
                shape = tuple(leaf.shape)
                raise RuntimeError(f"a parameter {shape} got a second gradient, or one too late")
            bucket.missing.remove(leaf)
            while self.next < len(self.buckets) and not self.buckets[self.next].missing:
                self._complete(self.buckets[self.next])
                self.next += 1

        return arrived

    def _complete(self, bucket: Bucket) -> None:
        bucket.collect(add=self.add)
        if self.last:
            self._send(bucket)

    def _send(self, bucket: Bucket) -> None:
        op = dist.ReduceOp.AVG if self.divides else dist.ReduceOp.SUM
        self.works.append(dist.all_reduce(bucket.flat, op, async_op=True))

    def _wait(self) -> None:
        """Wait for the reductions: on a GPU the stream does, not the host."""
        for work in self.works:
            work.wait()
        if not self.divides:
            torch._foreach_div_([bucket.flat for bucket in self.buckets], self.size)


def _make_buckets(leaves: Sequence[Tensor], first_bytes: int, full_bytes: int) -> list[Bucket]:
    """Split the leaves, in order, into buckets of at least their size; the last may be smaller."""
    shares: list[list[Tensor]] = [[]]
    for leaf in leaves:
        if _end(shares[-1]) * 4 >= (full_bytes if shares[1:] else first_bytes):
            shares.append([])
        shares[-1].append(leaf)
    return [_make_bucket(share) for share in shares if share]


def _make_bucket(leaves: list[Tensor]) -> Bucket:
    flat = torch.zeros(_end(leaves), device=leaves[0].device)
    parts = flat.split([_room(leaf) for leaf in leaves])
    sums = [part[: x.numel()].view_as(x) for part, x in zip(parts, leaves, strict=True)]
    return Bucket(leaves, sums, flat)


def _end(leaves: list[Tensor]) -> int:
    """Return how many numbers all leaves take up."""
    return sum(map(_room, leaves))


def _room(leaf: Tensor) -> int:
    """Return how many numbers of a bucket the leaf takes up, padding included."""
    return -(-leaf.numel() // ALIGNMENT) * ALIGNMENT
