"""Whole steps in one CUDA graph, on batches that the device makes by itself."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fastimae.engine.graph import sharing_memory
from fastimae.engine.one_pass_adamw import OnePassAdamW
from fastimae.engine.optim import lr_scale, set_lr
from fastimae.engine.step import GraphedStep, Work
from fastimae.log import log

if TYPE_CHECKING:
    from fastimae.loaders.base import Batch
    from fastimae.loaders.resident import ResidentEpoch

STEPS_PER_GRAPH = 10
"""Between two graphs the host takes a few microseconds: a tenth of that per step is nothing. With
more steps, a signal to stop would wait for longer, as it cannot end a graph."""


class ResidentStep(GraphedStep):
    """Steps that need no host: a graph of STEPS_PER_GRAPH whole steps, and one of a single step.

    Each step makes its batches by `ResidentEpoch.batch` and reads its learning rate from a table on
    the device, so that gradients, losses and weights are those of `GraphedStep`, bit for bit.
    """

    def __init__(self, *args: object, **settings: object) -> None:
        super().__init__(*args, **settings)
        self.whole: dict[int, Work] = {}
        """Number of steps -> the graph of them."""
        self.rates = torch.empty(0)
        """fp32 [steps, scales]: the learning rates that the graphs read."""
        self.batch_size = 0

    def prepare_whole(self, resident: ResidentEpoch, epoch: int, longest: int) -> bool:
        """Record whole steps, unless that has been done; return False if that cannot be.

        longest: steps that are taken at once, at most. Leaves `resident` at any position of the
        epoch. Raises what the objective raises.
        """
        if self.prepared:
            return bool(self.whole)
        sizes = sorted({1, min(longest, STEPS_PER_GRAPH)})
        if isinstance(self.optimizer, OnePassAdamW):
            self.optimizer.recorded_updates = sum(sizes)
        self.rates = torch.zeros(sizes[-1], len(self._scales()), device=self.device)

        def begin() -> Batch:
            resident.begin(epoch, 0)  # an epoch may be shorter than the warm-up
            batch = resident.batch()
            self.batch_size = len(batch)
            return batch

        self.warm_up(begin)
        self._clear()
        if self.replica.any(self.draws):
            log.info(
                "the objective draws torch's random numbers, seeded for each step by the host: "
                "steps are recorded one by one"
            )
            return False
        resident.begin(epoch, 0)
        self.next_batch = resident.batch
        with sharing_memory():  # a step of a large model may need most of the GPU's
            replays = self.record_all([functools.partial(self._steps, count) for count in sizes])
        self.whole = dict(zip(sizes, replays, strict=False))
        return bool(self.whole)

    def take(self, rates: Sequence[float]) -> Tensor:
        """Take a step for each learning rate; return the parts of each batch's loss.

        [steps * accum_iter, parts], on the device, in the order of `names`.
        """
        if self.copies:
            self.copies.refresh()
        rows, largest, left = [], max(self.whole), list(rates)
        while left:
            count = largest if len(left) >= largest else 1
            table = [[rate * scale for scale in self._scales()] for rate in left[:count]]
            # From pageable memory, which the driver has copied on return.
            self.rates[:count].copy_(torch.tensor(table), non_blocking=True)
            rows.append(self.whole[count]().clone())  # the next replay writes where this one did
            del left[:count]
        set_lr(self.optimizer, rates[-1])
        self.replica.heartbeat()
        return rows[0] if len(rows) == 1 else torch.cat(rows)

    def set_image_size(self, size: tuple[int, int]) -> None:
        self.whole = {}
        super().set_image_size(size)

    def _steps(self, count: int) -> Tensor:
        """Take `count` steps, to be recorded. Their losses become one tensor in one launch."""
        losses: list[Tensor] = []
        for number in range(count):
            for micro in range(self.accum_iter):
                with self.replica.sync_gradients(last=micro == self.accum_iter - 1):
                    parts = self._forward_backward(self.next_batch())
                losses += parts.values()
            with self._rates_of(number):
                self._apply_gradients()
            self._clear()
        self.names = list(parts)
        return torch.stack(losses).view(-1, len(parts))

    @contextlib.contextmanager
    def _rates_of(self, number: int) -> Iterator[None]:
        """Let the optimizer read the learning rates of a step from the table: no launch sets them.
        Groups of one scale share a tensor."""
        groups = self.optimizer.param_groups
        own = [group["lr"] for group in groups]
        rates = dict(zip(self._scales(), self.rates[number].unbind(), strict=True))
        for group in groups:
            group["lr"] = rates[lr_scale(group)]
        try:
            yield
        finally:
            for group, rate in zip(groups, own, strict=True):
                group["lr"] = rate

    def _scales(self) -> list[float]:
        """Return the shares of the learning rate that groups take, each once."""
        return sorted({lr_scale(group) for group in self.optimizer.param_groups})
