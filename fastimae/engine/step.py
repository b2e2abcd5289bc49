"""The training step: forward, backward, update. On CUDA as graphs, recorded once and replayed."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from fastimae.engine.averaged_weights import AveragedWeights
from fastimae.engine.dry_run import dry_run
from fastimae.engine.graph import describe_chain, drop_tracebacks, record_cuda_graph
from fastimae.engine.memory import keep_freed_memory
from fastimae.engine.one_pass_adamw import OnePassAdamW
from fastimae.engine.optim import set_lr
from fastimae.engine.precision import DTYPES, precision_context
from fastimae.engine.replica import Replica
from fastimae.engine.weight_copies import WeightCopies
from fastimae.log import log
from fastimae.settings import StepSize

if TYPE_CHECKING:
    from fastimae.loaders.base import Batch
    from fastimae.objectives.base import Objective

Parts = dict[str, Tensor]
Work = Callable[[], Tensor | None]
"""What a graph records, or its replay: it returns the parts of the loss, or nothing."""

WARM_UP_PASSES = 3
"""Passes before recording: the first ones compile, select and load kernels."""


class Step:
    """One optimizer step: the gradients of accum_iter batches, then the update.

    The objective is on the device, which the step never waits for. replica: see `parallelise`; None
    trains in one process. precision: see `precision_context`. average: of the student's weights.
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
        replica: Replica | None = None,
        average: AveragedWeights | None = None,
    ) -> None:
        if device.type == "cpu":
            keep_freed_memory()
        self.objective, self.optimizer = objective, optimizer
        self.replica = Replica(objective) if replica is None else replica
        self.precision, self.device = precision, device
        self.accum_iter, self.clip_grad, self.average = accum_iter, clip_grad, average
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        self.copies: WeightCopies | None = None
        if isinstance(optimizer, OnePassAdamW):
            optimizer.max_norm = clip_grad
            if precision == "bf16" and self.replica.takes_copies:
                self.copies = optimizer.copies = WeightCopies(objective, DTYPES[precision])
        self.replica.use_copies(self.copies.of if self.copies else {})

    def __call__(self, batches: Sequence[Batch], lr: float) -> list[Parts]:
        """Take a step on accum_iter batches; return the parts of each batch's loss."""
        last = len(batches) - 1
        return [self.advance(batch, lr, last=i == last) for i, batch in enumerate(batches)]

    def advance(self, batch: Batch, lr: float, *, last: bool) -> Parts:
        """Add a batch's gradients; with the last batch of a step, average, update and clear them.

        lr: of the update. Returns the parts of the loss, scalars on the device.
        """
        try:
            with self.replica.sync_gradients(last):
                parts = self._forward_backward(batch)
        except BaseException:
            self._clear()  # a caller that catches this starts the step again
            raise
        if last:
            set_lr(self.optimizer, lr)
            self._apply_gradients()
            self._clear()
        return parts

    def set_image_size(self, size: tuple[int, int]) -> None:
        """Take batches of images of another size, (height, width), from now on."""
        self.replica.set_image_size(size)

    def scaler_state(self) -> dict[str, Any]:
        """Return the loss scale of fp16; in other formats a new one, which any code can load."""
        return self.scaler.state_dict() or torch.amp.GradScaler("cpu").state_dict()

    def load_scaler(self, state: dict[str, Any]) -> None:
        """Load a `scaler_state`; checkpoints of format 1 have an empty one without fp16."""
        if state:
            self.scaler.load_state_dict(state)

    def _forward_backward(self, batch: Batch) -> Parts:
        with self._precision_context():
            parts = self.replica(batch)
            self.scaler.scale(parts["loss"] / self.accum_iter).backward()
        if self.copies and self.accum_iter > 1 and not self.replica.sums_gradients:
            self.copies.collect()
        return {name: part.detach() for name, part in parts.items()}

    def _precision_context(self) -> contextlib.AbstractContextManager:
        if self.copies:
            return self.copies.in_place()
        return precision_context(self.objective, self.precision, self.device)

    def _apply_gradients(self) -> None:
        if self.clip_grad and not isinstance(self.optimizer, OnePassAdamW):
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.objective.parameters(), self.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        with torch.no_grad():
            self.objective.after_update()
        if self.average:
            self.average.update()
        if self.copies:
            self.copies.refresh()  # recorded, too: replays do not change versions

    def _clear(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        if self.copies:
            self.copies.clear()


class GraphedStep(Step):
    """The same step without the overhead of the host: recorded as CUDA graphs and replayed.

    One graph is the complete step; with accum_iter there are two, one that adds a batch's gradients
    and one that updates. Batches, all of one size, are copied into buffers that the graphs read,
    gradients keep their memory, and the learning rate is a tensor (see `build_optimizer`). If
    recording fails in any process, all train without graphs, and log that; the error is `failure`.
    """

    def __init__(self, *args: object, **settings: object) -> None:
        super().__init__(*args, **settings)
        self.record: Callable[[Work], Work] = record_cuda_graph
        self.prepared = False
        self.buffers: Batch | None = None
        self.names: list[str] = []
        self.replays: list[Work] = []
        self.gradients: list[Tensor] = []
        """Those in the graphs' memory, kept alive as long as the graphs."""
        self.failure: RuntimeError | None = None

    def prepare(self, batch: Batch) -> None:
        """Record the step, unless that has been done. Has no effect on training.

        batch: on the device, and of the size of those to come; its images do not matter. Call this
        before other threads use CUDA (see `record_cuda_graph`), else the first `advance` does.
        Raises what the objective raises.
        """
        if self.prepared:
            return
        fields = [field.name for field in dataclasses.fields(batch)]
        cloned = {name: getattr(batch, name).clone() for name in fields}
        self.buffers = dataclasses.replace(batch, **cloned)
        averages = self.average.changing() if self.average else ()
        with dry_run(self.objective, self.optimizer, self.device, also=averages):
            self._warm_up()
        if self.copies:
            self.copies.refresh()  # now, so that no graph records it
        self.prepared = True
        works = (
            [self._complete_step] if self.accum_iter == 1 else [self._add_gradients, self._update]
        )
        try:
            for work in works:
                self.replays.append(self.record(work))
            self.gradients = self._gradients()
        except RuntimeError as error:
            self.failure = error
        if self.replica.any(self.failure is not None):
            self.failure = self.failure or RuntimeError("another process could not record it")
            self.buffers, self.replays = None, []
        self._clear()
        if self.failure:
            log.warning("training continues without CUDA graphs: %s", describe_chain(self.failure))
            drop_tracebacks(self.failure)
            gc.collect()
            torch.cuda.empty_cache()

    def advance(self, batch: Batch, lr: float, *, last: bool) -> Parts:
        self.prepare(batch)
        if not self.replays:
            return super().advance(batch, lr, last=last)
        for field in dataclasses.fields(batch):
            buffer = getattr(self.buffers, field.name)
            buffer.copy_(getattr(batch, field.name), non_blocking=True)
        if self.copies:
            self.copies.refresh()
        set_lr(self.optimizer, lr)
        parts = self.replays[0]().clone()  # the next replay writes where this one did
        if last and len(self.replays) > 1:
            self.replays[1]()
        if last:
            self.replica.heartbeat()
        return dict(zip(self.names, parts.unbind(), strict=True))

    def set_image_size(self, size: tuple[int, int]) -> None:
        """Drop the graphs, which are of one size; new ones are recorded, unless that has failed."""
        super().set_image_size(size)
        self.prepared = self.failure is not None
        self.buffers, self.replays, self.gradients = None, [], []
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _warm_up(self) -> None:
        """Run passes and an update before recording.

        Afterwards gradients are zeros if steps accumulate, and None for parameters without any.
        """
        for _ in range(WARM_UP_PASSES):
            self._add_gradients()
        self.replica.average()
        torch._foreach_zero_(self._gradients())
        self._apply_gradients()
        if self.accum_iter == 1:
            self._clear()

    def _gradients(self) -> list[Tensor]:
        """Return the existing gradients of parameters and copies."""
        leaves = [*self.objective.parameters(), *(self.copies.of.values() if self.copies else ())]
        return [leaf.grad for leaf in leaves if leaf.grad is not None]

    def _complete_step(self) -> Tensor:
        """Take a step of one batch, to be recorded: nothing is accumulated."""
        with self.replica.sync_gradients(last=True):
            parts = self._parts()
        self._apply_gradients()
        return parts

    def _add_gradients(self) -> Tensor:
        with self.replica.accumulate():
            return self._parts()

    def _parts(self) -> Tensor:
        parts = self._forward_backward(self.buffers)
        self.names = list(parts)
        return torch.stack(list(parts.values()))

    def _update(self) -> None:
        self.replica.average()
        self._apply_gradients()
        torch._foreach_zero_(self._gradients())


def seed_draws(device: torch.device, *key: int) -> None:
    """Seed torch's generators, on the CPU and on `device`, with a function of `key`.

    With the step as the key, draws do not depend on earlier ones: dropped paths need no state in
    checkpoints, and ranks draw differently. Nothing waits for the device. Recorded CUDA graphs use
    the seed, too.
    """
    number = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        torch.cuda.manual_seed(number)
