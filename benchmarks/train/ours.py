"""Our step, with switches that take away what it is fast by, one at a time."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.train.cases import Case, make_batch
from benchmarks.train.plain import RATE
from fastimae.config import TrainConfig, updated
from fastimae.engine.distributed import World
from fastimae.engine.optim import build_optimizer
from fastimae.engine.precision import resolve_precision
from fastimae.engine.prepare import prepare_objective, wants_graph
from fastimae.engine.step import GraphedStep, Step
from fastimae.kernels import Mask, prefer
from fastimae.kernels.rows import masked_rows
from fastimae.loaders import Batch, DevicePrefetch
from fastimae.models import MaskedAutoencoder, vit
from fastimae.objectives import IMAE, MAE

WEIGHT_DECAY = 0.05


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ours:
    """A way to run our step; as it is, what `fastimae-train` does."""

    precision: str = "auto"
    """As --precision."""
    autocast: bool = False
    """torch.autocast to bf16 around fp32 weights."""
    masked_only: bool = True
    """The last decoder block computes the rows that the loss sees."""
    batched: bool = True
    """Both images of a mixture go through decoder and teacher in one batch."""
    products: bool = True
    """bf16 attention on a CPU by matrix products, not by torch's scaled_dot_product_attention."""
    triton: bool = True
    """False: the ops in torch, on a GPU too."""
    compiled: bool = True
    """torch.compile of the blocks, on a GPU."""
    cuda_graph: bool = True
    """The step recorded as CUDA graphs, on a GPU."""

    def build(self, case: Case, models: OurModels, device: torch.device) -> OurVariant:
        """Ready to run."""
        return OurVariant(self, case, models, device)


class OurModels:
    """An objective, and its optimizer: one for all variants that share them."""

    def __init__(self, objective: MAE | IMAE) -> None:
        self.objective = objective
        self._optimizers: dict[bool, torch.optim.Optimizer] = {}

    def optimizer(self, for_graph: bool) -> torch.optim.Optimizer:
        """As fastimae-train makes it."""
        if for_graph not in self._optimizers:
            made = build_optimizer(self.objective, RATE, WEIGHT_DECAY, for_graph=for_graph)
            self._optimizers[for_graph] = made
        return self._optimizers[for_graph]


class OurVariant:
    """Steps on a batch of bytes in host memory, copied ahead as in fastimae-train."""

    def __init__(self, ours: Ours, case: Case, models: OurModels, device: torch.device) -> None:
        self.ours, self.objective = ours, models.objective
        self.host = make_batch(case, case.batch_size(device))
        self.batches = iter(DevicePrefetch(Repeated(self.host), device))
        self.step = training_step(ours, models, device)

    def __call__(self) -> Tensor:
        """One step on the same batch as ever; its loss."""
        return self.train(next(self.batches))

    def train(self, batch: Batch) -> Tensor:
        """One step on a batch that is on the device."""
        with switched(self.objective, self.ours):
            return self.step(batch, RATE)


class Repeated:
    """A loader that has one batch, and never ends."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def __iter__(self) -> Iterator[Batch]:
        while True:
            yield self.batch

    def state_dict(self) -> dict[str, int]:
        """It stands where it always does."""
        return {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """See `state_dict`."""


def training_step(
    ours: Ours, models: OurModels, device: torch.device
) -> Callable[[Batch, float], Tensor]:
    """The step of fastimae-train: a batch on the device and a learning rate in, the loss out.

    May change the objective for good.
    """
    objective = models.objective
    on = {True: "auto", False: "off"}
    config = updated(
        TrainConfig(),
        {"compile": on[ours.compiled], "cuda_graph": on[ours.cuda_graph]},
        "benchmarks.train",
    )
    precision = resolve_precision(ours.precision, device)
    prepare_objective(objective, config.optim, device, precision, loader=None)
    graphed = wants_graph(config.optim, World(0, 1, device), precision)
    step = (GraphedStep if graphed else Step)(
        objective,
        models.optimizer(graphed),
        precision=precision,
        device=device,
        parallel=_Autocast(objective, device) if ours.autocast else None,
    )
    return lambda batch, rate: step([batch], rate)[0]["loss"]


class _Autocast:
    """The objective in bf16 autocast."""

    def __init__(self, objective: MAE | IMAE, device: torch.device) -> None:
        self.objective, self.device = objective, device

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        with torch.autocast(self.device.type, torch.bfloat16):
            return self.objective(batch)


@contextlib.contextmanager
def switched(objective: MAE | IMAE, ours: Ours) -> Iterator[None]:
    """What is switched off stays off within the context."""
    with contextlib.ExitStack() as stack:
        prefer("auto" if ours.triton else "torch")
        stack.callback(prefer, "auto")
        if not ours.masked_only:
            decode = every_row(objective.student)
            stack.enter_context(mock.patch.object(objective.student, "decode", decode))
        if not ours.batched and isinstance(objective, IMAE):
            for name, method in one_by_one(objective).items():
                stack.enter_context(mock.patch.object(objective, name, method))
        if not ours.products:
            # The package's attribute of that name is the op, not its module.
            module = sys.modules["fastimae.kernels.attention"]
            for place in (module, vit):
                stack.enter_context(mock.patch.object(place, "cross_attention", sdpa))
        yield


def every_row(student: MaskedAutoencoder) -> Callable[..., Tensor]:
    """`decode` that computes all rows before it picks those asked for."""
    decode = student.decode

    def all_then_some(head: Tensor, mask: Mask, masked_only: bool = False) -> Tensor:
        rows = decode(head, mask)
        return masked_rows(rows, mask) if masked_only else rows

    return all_then_some


def one_by_one(objective: IMAE) -> dict[str, Callable[..., Tensor]]:
    """Methods of `objective` that take one image of a mixture after the other."""
    student = objective.student

    def reconstruction(batch: Batch, mask: Mask, heads: Tensor) -> Tensor:
        own = torch.arange(len(batch.images), device=batch.images.device)
        losses = [
            student.reconstruction_loss(
                student.decode(head, mask, masked_only=True), batch.images, target,
                mask.ids_masked, branches=1,
            )
            for head, target in zip(heads, (own, batch.partner), strict=True)
        ]  # fmt: skip
        return torch.cat(losses)

    def teacher_latents(batch: Batch, mask: Mask, views: tuple[Tensor, ...]) -> Tensor:
        return torch.cat([objective._teacher_latent(view, mask) for view in views[1:]])

    return {"_reconstruction": reconstruction, "_teacher_latents": teacher_latents}


def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """`cross_attention` by torch's own choice."""
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
