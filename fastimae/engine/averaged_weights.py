"""--model_ema: an exponential moving average of the student's weights, kept on the device."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fastimae.engine.sharded import local, shard_like
from fastimae.log import log

EMA, EMA_UPDATES = "model_ema", "model_ema_updates"
"""Keys of a checkpoint: the averaged model, a state dict like "model", and its updates so far."""
_FIRST, _LAG = 9, 10
"""The update after t others takes a share of at least 9 / (10 + t) of the current weights."""


class AveragedWeights:
    """An exponential moving average of a module's trained weights, each in its parameter's format.

    After an update number t (from 0) the average is decay_t * average + (1 - decay_t) * weights,
    with decay_t = min(decay, (1 + t) / (10 + t)). So it reaches back over a tenth of the updates
    until that is 1 / (1 - decay) of them, as the profiles of Karras et al. (2024, section 3.1) do,
    and in a short run it is not one of the initial weights. What is not trained, such as buffers
    and fixed positions, is the module's own.

    An update after a step that fp16 skips takes the unchanged weights once more. Of a sharded
    module each process keeps the average of its rows; of others, all processes have the same.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        """Start with the module's current weights, which are on their device and sharded by now."""
        self.module, self.decay = module, decay
        self._weights = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.of = {name: weight.detach().clone() for name, weight in self._weights.items()}
        """The average of each trained weight, by its name in the module."""
        device = next(iter(self.of.values())).device
        self.updates = torch.zeros((), dtype=torch.int64, device=device)
        """How many there were; on the device, as CUDA graphs record an update."""

    @torch.no_grad()
    def update(self) -> None:
        """Take the current weights into the average, in place and without waiting for a device."""
        share = (_FIRST / (self.updates + _LAG)).clamp(min=1 - self.decay)
        averages, weights = self._tensors()
        # weights + (1 - share) (average - weights): needs no memory, and a tensor as the factor.
        torch._foreach_sub_(averages, weights)
        torch._foreach_mul_(averages, 1 - share)
        torch._foreach_add_(averages, weights)
        self.updates += 1

    @contextlib.contextmanager
    def in_place(self) -> Iterator[nn.Module]:
        """Exchange the module's weights for the average during the block; yield the module.

        Afterwards all weights have their bits again. A module that FSDP2 shards must not be
        gathered at either end: call `reshard` of the objective.
        """
        self._exchange()
        try:
            yield self.module
        finally:
            self._exchange()

    def state_dict(self) -> dict[str, Tensor]:
        """Return the module's `state_dict` with averages for the trained weights."""
        names = {weight: name for name, weight in self._weights.items()}
        every = self.module.named_parameters(remove_duplicate=False)  # tied ones, too
        averages = {name: self.of[names[weight]] for name, weight in every if weight in names}
        return self.module.state_dict() | averages

    def state(self) -> dict[str, Any]:
        """Return what checkpoints hold, by key. Waits for the device."""
        return {EMA: self.state_dict(), EMA_UPDATES: int(self.updates)}

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Undo the block's updates at its end; a copy of the average is in memory until then."""
        changing = [*self.of.values(), self.updates]
        copies = [tensor.clone() for tensor in changing]
        try:
            yield
        finally:
            for tensor, before in zip(changing, copies, strict=True):
                tensor.copy_(before)

    @torch.no_grad()
    def load(self, content: Mapping[str, Any]) -> None:
        """Continue the average of a checkpoint's content, or start one from the current weights."""
        saved = content.get(EMA, self._weights)
        for name, average in self.of.items():
            average.copy_(shard_like(saved[name], average))
        self.updates.fill_(content.get(EMA_UPDATES, 0))

    @torch.no_grad()
    def _exchange(self) -> None:
        for average, weight in zip(*self._tensors(), strict=True):
            held = weight.clone()
            weight.copy_(average)
            average.copy_(held)

    def _tensors(self) -> tuple[list[Tensor], list[Tensor]]:
        """Return the averages and the weights, of a sharded module those of this process."""
        pairs = self.of.values(), self._weights.values()
        averages, weights = ([local(tensor) for tensor in tensors] for tensors in pairs)
        return averages, weights


def resume_average(average: AveragedWeights | None, content: Mapping[str, Any]) -> None:
    """Load the average that a run continues, and log it if only the run or the file has one.

    content: of the checkpoint whose weights have been loaded.
    """
    if average is not None:
        average.load(content)
        if EMA not in content:
            log.warning("--model_ema: the checkpoint has no average, it starts from its weights")
    elif EMA in content:
        log.warning("the checkpoint's average is dropped: --model_ema continues it")
