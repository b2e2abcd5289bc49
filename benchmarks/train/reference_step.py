"""The plain pipeline as a variant, with the switches that a careful user has."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from benchmarks.reference import (
    PlainMAE,
    PlainStep,
    mixture,
    mixture_loss,
    plain_adamw,
    usual_dtype,
)
from benchmarks.reference.model import PlainAttention
from benchmarks.train.cases import TrainCase, drawn_ratio, float_images, make_batch, pinned
from fastimae.models import MaskedAutoencoder, parse_name
from fastimae.objectives import IMAE, MAE

RATE = 1e-10
"""Learning rate. The optimizer works as usual, but the loss stays the same for many steps."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReferenceStep:
    """A variant of the plain pipeline."""

    dtype: torch.dtype | None = None
    """Autocast to this; None: fp16 with a scaler on a GPU, fp32 elsewhere."""
    waits: bool = True
    """Read the loss and synchronise in each step."""
    sdpa: bool = False
    """torch's fused attention instead of two matrix products and a softmax."""
    fused: bool = False
    """One kernel for AdamW."""
    compiled: bool = False
    """torch.compile of every block. Equal blocks are compiled once, which takes a minute; a whole
    model takes several."""

    def on(self, case: TrainCase) -> TrainCase:
        """Return the case that this variant trains on: unchanged."""
        return case

    def build(
        self, case: TrainCase, models: ReferenceModels, device: torch.device
    ) -> BuiltReferenceStep:
        """Make the step, ready to run."""
        return BuiltReferenceStep(self, case, models, device)

    def precision(self, device: torch.device) -> str:
        """Name the number format."""
        dtype = self.dtype or usual_dtype(device) or torch.float32
        return {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}[dtype]


class ReferenceModels(nn.Module):
    """Student and teacher with the weights of one of our objectives."""

    def __init__(self, case: TrainCase, objective: MAE | IMAE) -> None:
        super().__init__()
        self.student = plain_copy(case, objective.student)
        self.teacher = None
        if case.objective == "imae":
            self.teacher = plain_copy(case, objective.teacher).eval().requires_grad_(False)
        self.noise: Tensor | None = None
        """Order of the patches, float [B, L]; None: drawn again in each step."""
        self._optimizers: dict[bool, torch.optim.Optimizer] = {}

    def forward(self, *tensors: Tensor) -> Tensor:
        """Compute the loss of float images [B, 3, H, W]; for i-MAE mixtures, images, partners."""
        noise = self.noise
        if noise is None:
            patches = self.student.pos_embed.shape[1] - 1
            noise = torch.rand(len(tensors[0]), patches, device=tensors[0].device)
        if self.teacher is None:
            return self.student(*tensors, noise)
        return mixture_loss(self.student, self.teacher, *tensors, noise)

    def optimizer(self, fused: bool) -> torch.optim.Optimizer:
        """Return the student's optimizer, one for all variants that share these models."""
        if fused not in self._optimizers:
            self._optimizers[fused] = plain_adamw(self.student, RATE, fused=fused)
        return self._optimizers[fused]

    def use(self, *, sdpa: bool) -> None:
        """Choose the kind of attention."""
        for module in self.modules():
            if isinstance(module, PlainAttention):
                module.sdpa = sdpa

    def compile_blocks(self) -> None:
        """torch.compile each transformer block."""
        for model in filter(None, (self.student, self.teacher)):
            for block in (*model.blocks, *model.decoder_blocks):
                block.compile(dynamic=False)


class BuiltReferenceStep:
    """A step on a batch of floats in host memory, as workers would make it."""

    def __init__(
        self, variant: ReferenceStep, case: TrainCase, models: ReferenceModels, device: torch.device
    ) -> None:
        self.variant, self.models = variant, models
        self.step = PlainStep(
            models,
            models.optimizer(variant.fused),
            dtype=variant.dtype or usual_dtype(device),
            waits=variant.waits,
        )
        self.host = [pinned(tensor) for tensor in host_tensors(case, device)]
        if variant.compiled:
            models.compile_blocks()

    def __call__(self) -> Tensor:
        """Train one step on the made-up batch; return the loss."""
        return self.train(self.host)

    def train(self, host: list[Tensor]) -> Tensor:
        """Train one step on a loader's tensors; return the loss."""
        self.models.use(sdpa=self.variant.sdpa)
        return self.step(*host)


def host_tensors(case: TrainCase, device: torch.device) -> list[Tensor]:
    """Make the made-up batch as floats: images; for i-MAE our mixtures, images and partners."""
    batch = make_batch(case, case.batch_size(device))
    images = float_images(batch.images)
    if case.objective == "mae":
        return [images]
    return list(mixture(images, batch.partner, drawn_ratio(batch)))


def plain_copy(case: TrainCase, model: MaskedAutoencoder) -> PlainMAE:
    """Copy our model to the plain one, on the same device."""
    with torch.device("meta"):  # fresh weights take seconds for a large model and would be replaced
        plain = PlainMAE(
            img_size=case.img_size,
            heads=model.heads,
            norm_pix_loss=model.norm_pix_loss,
            **parse_name(case.model),
        )
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    plain.load_state_dict(weights, assign=True)
    return plain
