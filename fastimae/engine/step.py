"""The step: forward, backward, update. On CUDA as graphs, recorded once and replayed."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fastimae.engine.optim import set_lr
from fastimae.engine.precision import computing

if TYPE_CHECKING:
    from fastimae.loaders.base import Batch

log = logging.getLogger("fastimae")

Parts = dict[str, Tensor]
Record = Callable[[Callable[[], Parts | None]], Callable[[], Parts | None]]

WARM_UP_STEPS = 3


class Step:
    """One optimizer step: the gradients of accum_iter batches, then the update.

    Nothing in it waits for the device. objective: maps a batch to a dict with "loss", on the
    device. parallel: what is called in its place, where several processes train (it may have
    `no_sync`, as DistributedDataParallel has). precision: see `computing`.
    """

    def __init__(
        self,
        objective: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        precision: str,
        device: torch.device,
        accum_iter: int = 1,
        clip_grad: float | None = None,
        parallel: nn.Module | None = None,
    ) -> None:
        self.objective, self.optimizer = objective, optimizer
        self.called = objective if parallel is None else parallel
        self.precision, self.device = precision, device
        self.accum_iter, self.clip_grad = accum_iter, clip_grad
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")

    def __call__(self, batches: Sequence[Batch], lr: float) -> list[Parts]:
        """The whole step on accum_iter batches; the parts of each batch's loss."""
        last = len(batches) - 1
        parts = [self.accumulate(batch, last=i == last) for i, batch in enumerate(batches)]
        self.update(lr)
        return parts

    def accumulate(self, batch: Batch, *, last: bool) -> Parts:
        """Add a batch's gradients. last: of the step; only then do processes average theirs.

        Returns the parts of the loss, scalars on the device, to be read before the next call.
        """
        if hasattr(self.called, "no_sync") and not last:
            with self.called.no_sync():
                return self._forward_backward(batch)
        return self._forward_backward(batch)

    def update(self, lr: float) -> None:
        """Take the optimizer's step along the gradients, and clear them."""
        set_lr(self.optimizer, lr)
        self._apply_gradients()
        self.optimizer.zero_grad(set_to_none=True)

    def _forward_backward(self, batch: Batch) -> Parts:
        with computing(self.objective, self.precision, self.device):
            parts = self.called(batch)
            self.scaler.scale(parts["loss"] / self.accum_iter).backward()
        return {name: part.detach() for name, part in parts.items()}

    def _apply_gradients(self) -> None:
        if self.clip_grad:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.objective.parameters(), self.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()


class GraphedStep(Step):
    """The same step with the host out of the way: two recorded graphs, one that adds a batch's
    gradients and one that updates.

    The first WARM_UP_STEPS steps run as they are. Then batches, all of one size, are copied into
    buffers that the graphs read, gradients stay in one place, and the learning rate is a tensor
    (see `build_optimizer`). Where recording fails, training goes on without, and says so.
    """

    def __init__(self, *args: object, record: Record | None = None, **settings: object) -> None:
        """record: turns a function into its replay; for tests. Others: see `Step`."""
        super().__init__(*args, **settings)
        self.record = record or record_cuda_graph
        self.steps = 0
        self.buffers: Batch | None = None
        self.replays: tuple[Callable, Callable] | None = None

    def accumulate(self, batch: Batch, *, last: bool) -> Parts:
        if self.steps == WARM_UP_STEPS and self.buffers is None:
            self._record(batch)
        if self.replays is None:
            return super().accumulate(batch, last=last)
        _copy(batch, self.buffers)
        return self.replays[0]()

    def update(self, lr: float) -> None:
        self.steps += 1
        if self.replays is None:
            super().update(lr)
        else:
            set_lr(self.optimizer, lr)
            self.replays[1]()

    def _record(self, batch: Batch) -> None:
        tensors = {f.name: getattr(batch, f.name).clone() for f in dataclasses.fields(batch)}
        self.buffers = dataclasses.replace(batch, **tensors)
        parameters = [p for p in self.objective.parameters() if p.requires_grad]
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        try:
            forward_backward = self.record(lambda: self._forward_backward(self.buffers))
            self.replays = forward_backward, self.record(self._update)
        except RuntimeError as error:
            log.warning("training goes on without CUDA graphs (%s)", str(error).splitlines()[0])
            self.optimizer.zero_grad(set_to_none=True)

    def _update(self) -> None:
        self._apply_gradients()
        self.optimizer.zero_grad(set_to_none=False)


def record_cuda_graph(function: Callable[[], Parts | None]) -> Callable[[], Parts | None]:
    """A function that runs `function`'s work on the GPU again; what it returned is overwritten."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = function()

    def replay() -> Parts | None:
        graph.replay()
        return result

    return replay


def _copy(source: Batch, target: Batch) -> None:
    for field in dataclasses.fields(source):
        getattr(target, field.name).copy_(getattr(source, field.name), non_blocking=True)
