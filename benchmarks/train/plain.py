"""The plain pipeline, with the switches that a careful user has."""

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
from benchmarks.train.cases import Case, drawn_ratio, float_images, make_batch, pinned
from fastimae.models import MaskedAutoencoder, parse_name
from fastimae.objectives import IMAE, MAE

RATE = 1e-10
"""Learning rate: the optimizer works as ever, and after hundreds of steps the loss is the same."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plain:
    """A way to run the plain pipeline."""

    dtype: torch.dtype | None = None
    """Autocast to this; None: fp16 with a scaler on a GPU, fp32 elsewhere."""
    waits: bool = True
    """Read the loss and synchronise in each step."""
    sdpa: bool = False
    """torch's fused attention instead of two matrix products and a softmax."""
    fused: bool = False
    """One kernel for AdamW."""
    compiled: bool = False
    """torch.compile of every block: equal blocks are compiled once, which takes a minute for a
    model where all of it at once takes several."""

    def build(self, case: Case, models: PlainModels, device: torch.device) -> PlainVariant:
        """Ready to run."""
        return PlainVariant(self, case, models, device)

    def precision(self, device: torch.device) -> str:
        """Name of the number format."""
        dtype = self.dtype or usual_dtype(device) or torch.float32
        return {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}[dtype]


class PlainModels(nn.Module):
    """Student and teacher with the weights of one of our objectives."""

    def __init__(self, case: Case, objective: MAE | IMAE) -> None:
        super().__init__()
        self.student = plain_copy(case, objective.student)
        self.teacher = None
        if case.objective == "imae":
            self.teacher = plain_copy(case, objective.teacher).eval().requires_grad_(False)
        self.noise: Tensor | None = None
        """Orders patches, float [B, L]; None: drawn anew in each step."""
        self._optimizers: dict[bool, torch.optim.Optimizer] = {}

    def forward(self, *tensors: Tensor) -> Tensor:
        """The loss of float images [B, 3, H, W]; of i-MAE's mixtures, images and partners."""
        noise = self.noise
        if noise is None:
            patches = self.student.pos_embed.shape[1] - 1
            noise = torch.rand(len(tensors[0]), patches, device=tensors[0].device)
        if self.teacher is None:
            return self.student(*tensors, noise)
        return mixture_loss(self.student, self.teacher, *tensors, noise)

    def optimizer(self, fused: bool) -> torch.optim.Optimizer:
        """The student's; one for all variants that share these models."""
        if fused not in self._optimizers:
            self._optimizers[fused] = plain_adamw(self.student, RATE, fused=fused)
        return self._optimizers[fused]

    def use(self, *, sdpa: bool) -> None:
        """Choose the attention."""
        for module in self.modules():
            if isinstance(module, PlainAttention):
                module.sdpa = sdpa

    def compile_blocks(self) -> None:
        """torch.compile each transformer block."""
        for model in filter(None, (self.student, self.teacher)):
            for block in (*model.blocks, *model.decoder_blocks):
                block.compile(dynamic=False)


class PlainVariant:
    """Steps on a batch of floats in host memory, as workers would have made them."""

    def __init__(self, plain: Plain, case: Case, models: PlainModels, device: torch.device) -> None:
        self.plain, self.models = plain, models
        self.step = PlainStep(
            models,
            models.optimizer(plain.fused),
            dtype=plain.dtype or usual_dtype(device),
            waits=plain.waits,
        )
        self.host = [pinned(tensor) for tensor in host_tensors(case, device)]
        if plain.compiled:
            models.compile_blocks()

    def __call__(self) -> Tensor:
        """One step on the same batch as ever; its loss."""
        return self.train(self.host)

    def train(self, host: list[Tensor]) -> Tensor:
        """One step on tensors that a loader gave."""
        self.models.use(sdpa=self.plain.sdpa)
        return self.step(*host)


def host_tensors(case: Case, device: torch.device) -> list[Tensor]:
    """The made-up batch as floats: images; for i-MAE our mixtures, images and partners."""
    batch = make_batch(case, case.batch_size(device))
    images = float_images(batch.images)
    if case.objective == "mae":
        return [images]
    return list(mixture(images, batch.partner, drawn_ratio(batch)))


def plain_copy(case: Case, model: MaskedAutoencoder) -> PlainMAE:
    """The plain model with the same weights."""
    plain = PlainMAE(
        img_size=case.img_size,
        heads=model.heads,
        norm_pix_loss=model.norm_pix_loss,
        **parse_name(case.model),
    )
    plain.load_state_dict(model.state_dict())
    return plain
