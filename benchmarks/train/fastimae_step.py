"""Our step as a variant, with a switch for each thing that makes it fast."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from benchmarks.train.cases import TrainCase, make_batch
from benchmarks.train.reference_step import RATE
from benchmarks.train.switches import switched
from fastimae.config import TrainConfig, updated
from fastimae.engine.build_step import prepare_objective, wants_graph, wants_one_pass
from fastimae.engine.distributed import World
from fastimae.engine.optim import build_optimizer
from fastimae.engine.precision import resolve_precision
from fastimae.engine.replica import Replica
from fastimae.engine.step import GraphedStep, Step
from fastimae.loaders import Batch, DevicePrefetch
from fastimae.objectives import IMAE, MAE

WEIGHT_DECAY = 0.05


@dataclasses.dataclass(frozen=True, kw_only=True)
class FastImaeStep:
    """A variant of our step; its defaults are what `fastimae-train` does."""

    precision: str = "auto"
    """Like --precision."""
    autocast: bool = False
    """torch.autocast to bf16 around fp32 weights."""
    masked_only: bool = True
    """The last decoder block computes only the rows that the loss uses."""
    batched: bool = True
    """Both images of a mixture go through decoder and teacher in one batch."""
    products: bool = True
    """bf16 attention on a CPU by matrix products instead of torch's SDPA."""
    triton: bool = True
    """False: ops in torch, on a GPU too."""
    compiled: bool = True
    """torch.compile of the blocks, on a GPU."""
    cuda_graph: bool = True
    """The step recorded as CUDA graphs, on a GPU."""
    one_pass: bool = True
    """AdamW's update by our kernel, bf16 copies included, instead of torch's."""
    norms: bool = True
    """On a GPU, a sum and its norm are one kernel, and gradients of biases are by-products; False:
    torch.compile's sums and norms, and a separate pass for each bias."""
    epilogues: bool = True
    """GELU and its gradient in the products' epilogues, on a GPU whose table chooses that."""
    tiles: bool = True
    """Attention over more than 64 tokens has tuned passes; False: 32 queries at a time over all
    keys."""
    shared_tokens: bool = True
    """The decoder's first block computes mask tokens once for all samples."""
    pairs: bool = False
    """Like --reciprocal_pairs, on a batch that is paired that way."""
    fp8: bool = False
    """Like --teacher_precision fp8."""

    def on(self, case: TrainCase) -> TrainCase:
        """Return the case with the batch that this variant needs."""
        return dataclasses.replace(case, reciprocal=self.pairs)

    def build(
        self, case: TrainCase, models: FastImaeModels, device: torch.device
    ) -> BuiltFastImaeStep:
        """Make the step, ready to run."""
        return BuiltFastImaeStep(self, case, models, device)


class FastImaeModels:
    """An objective and its optimizers, which variants may share."""

    def __init__(self, objective: MAE | IMAE) -> None:
        self.objective = objective
        self._optimizers: dict[bool, torch.optim.Optimizer] = {}

    def optimizer(self, *, one_pass: bool, for_graph: bool) -> torch.optim.Optimizer:
        """Make an optimizer as in fastimae-train.

        Ours is a new one each time, as it updates the copies of one step.
        """
        make = functools.partial(build_optimizer, self.objective, RATE, WEIGHT_DECAY)
        if one_pass:
            return make(one_pass=True, for_graph=for_graph)
        if for_graph not in self._optimizers:
            self._optimizers[for_graph] = make(one_pass=False, for_graph=for_graph)
        return self._optimizers[for_graph]


class BuiltFastImaeStep:
    """A step on a batch of bytes in host memory, copied ahead as in fastimae-train."""

    def __init__(
        self, variant: FastImaeStep, case: TrainCase, models: FastImaeModels, device: torch.device
    ) -> None:
        self.variant, self.objective = variant, models.objective
        self.host = make_batch(variant.on(case), case.batch_size(device))
        self.batches = iter(DevicePrefetch(Repeated(self.host), device))
        self.step = training_step(variant, models, device, Repeated(self.host))

    def __call__(self) -> Tensor:
        """Train one step on the made-up batch; return the loss."""
        return self.train(next(self.batches))

    def train(self, batch: Batch) -> Tensor:
        """Train one step on a batch that is on the device; return the loss."""
        with switched(self.objective, self.variant):
            return self.step(batch, RATE)


class Repeated:
    """An endless loader of one batch."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def __iter__(self) -> Iterator[Batch]:
        while True:
            yield self.batch

    def state_dict(self) -> dict[str, int]:
        """Return nothing: it has no position."""
        return {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """See `state_dict`."""


def training_step(
    variant: FastImaeStep,
    models: FastImaeModels,
    device: torch.device,
    loader: Repeated | None = None,
) -> Callable[[Batch, float], Tensor]:
    """Make the step of fastimae-train: it takes a batch on the device and a learning rate.

    loader: needed for a teacher in fp8. May change the objective permanently.
    """
    objective = models.objective
    on = {True: "auto", False: "off"}
    config = updated(
        TrainConfig(),
        {
            "compile": on[variant.compiled],
            "cuda_graph": on[variant.cuda_graph],
            "update": "auto" if variant.one_pass else "torch",
        },
        lambda _: "benchmarks.train",
    )
    precision = resolve_precision(variant.precision, device)
    if variant.fp8:
        objective.teacher_precision = "fp8"
    prepare_objective(objective, config.optim, device, precision, loader)
    graphed = wants_graph(config.optim, World(0, 1, device), precision)
    step = (GraphedStep if graphed else Step)(
        objective,
        models.optimizer(one_pass=wants_one_pass(config.optim, precision), for_graph=graphed),
        precision=precision,
        device=device,
        replica=_Autocast(objective, device) if variant.autocast else None,
    )
    return lambda batch, rate: step([batch], rate)[0]["loss"]


class _Autocast(Replica):
    """The objective in bf16 autocast."""

    takes_copies = False

    def __init__(self, objective: MAE | IMAE, device: torch.device) -> None:
        super().__init__(objective)
        self.device = device

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        with torch.autocast(self.device.type, torch.bfloat16):
            return self.objective(batch)
