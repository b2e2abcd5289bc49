"""The step: forward, backward, update. On CUDA as graphs, recorded once and replayed."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from fastimae.engine.graph import in_one_line, let_go, record_cuda_graph
from fastimae.engine.optim import set_lr
from fastimae.engine.parallel import averaging
from fastimae.engine.precision import computing
from fastimae.engine.rehearsal import rehearsal
from fastimae.log import log
from fastimae.settings import StepSize

if TYPE_CHECKING:
    from fastimae.loaders.base import Batch
    from fastimae.objectives.base import Objective

Parts = dict[str, Tensor]
Work = Callable[[], Tensor | None]

REHEARSALS = 3
"""Passes before recording: the first ones compile, choose and load kernels."""


class Step:
    """One optimizer step: the gradients of accum_iter batches, then the update.

    Nothing in it waits for the device, on which the objective is. parallel: what is called in its
    place, where several processes train (see `parallelise`). precision: see `computing`.
    """

    def __init__(
        self,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        *,
        precision: str,
        device: torch.device,
        accum_iter: int = StepSize.accum_iter,
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

        Returns the parts of the loss, scalars on the device.
        """
        with averaging(self.called, last):
            return self._forward_backward(batch)

    def update(self, lr: float) -> None:
        """Take the optimizer's step along the gradients, and clear them."""
        set_lr(self.optimizer, lr)
        self._apply_gradients()
        self.optimizer.zero_grad(set_to_none=True)

    def scaler_state(self) -> dict[str, Any]:
        """The loss scale of fp16; a fresh one in other formats, from which any code goes on."""
        return self.scaler.state_dict() or torch.amp.GradScaler("cpu").state_dict()

    def load_scaler(self, state: dict[str, Any]) -> None:
        """Go on from a `scaler_state`; checkpoints of format 1 have none without fp16."""
        if state:
            self.scaler.load_state_dict(state)

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
        with torch.no_grad():
            self.objective.after_update()


class GraphedStep(Step):
    """The same step with the host out of the way: two recorded graphs, one that adds a batch's
    gradients and one that updates.

    Batches, all of one size, are copied into buffers that the graphs read, gradients stay in one
    place, and the learning rate is a tensor (see `build_optimizer`). Where recording fails,
    training goes on without, says so, and the error is kept as `failure`.
    """

    def __init__(self, *args: object, **settings: object) -> None:
        super().__init__(*args, **settings)
        self.record: Callable[[Work], Work] = record_cuda_graph
        self.prepared = False
        self.buffers: Batch | None = None
        self.names: list[str] = []
        self.replays: tuple[Work, Work] | None = None
        self.gradients: list[Tensor | None] = []
        """The graphs' own, which have to live as long as they."""
        self.failure: RuntimeError | None = None

    def prepare(self, batch: Batch) -> None:
        """Record the step, if that has not been done. Changes nothing that training can see.

        batch: on the device, of the size of those to come; what it shows does not matter.
        Call it before other threads use CUDA (see `record_cuda_graph`); if nobody has, the first
        `accumulate` does. Raises what the objective raises.
        """
        if self.prepared:
            return
        fields = [field.name for field in dataclasses.fields(batch)]
        cloned = {name: getattr(batch, name).clone() for name in fields}
        self.buffers = dataclasses.replace(batch, **cloned)
        with rehearsal(self.objective, self.optimizer, self.device):
            self._rehearse()
        self.prepared = True
        try:
            self.replays = self.record(self._add_gradients), self.record(self._update)
            self.gradients = [p.grad for p in self.objective.parameters()]
        except RuntimeError as error:
            self.failure, self.buffers = error, None
        self.optimizer.zero_grad(set_to_none=True)
        if self.failure:
            log.warning("training goes on without CUDA graphs: %s", in_one_line(self.failure))
            let_go(self.failure)
            gc.collect()
            torch.cuda.empty_cache()

    def accumulate(self, batch: Batch, *, last: bool) -> Parts:
        self.prepare(batch)
        if self.replays is None:
            return super().accumulate(batch, last=last)
        for field in dataclasses.fields(batch):
            buffer = getattr(self.buffers, field.name)
            buffer.copy_(getattr(batch, field.name), non_blocking=True)
        parts = self.replays[0]().clone()  # the next replay writes where this one did
        return dict(zip(self.names, parts.unbind(), strict=True))

    def update(self, lr: float) -> None:
        if self.replays is None:
            super().update(lr)
        else:
            set_lr(self.optimizer, lr)
            self.replays[1]()

    def _rehearse(self) -> None:
        """Leaves zeros for gradients, and None where a parameter gets none."""
        for _ in range(REHEARSALS):
            self.names = list(self._forward_backward(self.buffers))
        self.optimizer.zero_grad(set_to_none=False)
        self._update()

    def _add_gradients(self) -> Tensor:
        return torch.stack(list(self._forward_backward(self.buffers).values()))

    def _update(self) -> None:
        self._apply_gradients()
        self.optimizer.zero_grad(set_to_none=False)


def seed_draws(device: torch.device, *key: int) -> None:
    """Make what torch's generators draw next, on the CPU and on `device`, a function of `key`: of
    the step, not of what was drawn before it.

    So dropped paths need no state in checkpoints, and ranks draw apart from each other. Nothing
    waits for the device; a recorded CUDA graph draws from there on, too.
    """
    number = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        torch.cuda.manual_seed(number)
