"""The cases to train: models, batch sizes, and a made-up batch."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import torch
from torch import Tensor

from fastimae.kernels.reference import normalise
from fastimae.loaders import Batch
from fastimae.log import quietly
from fastimae.models import IMAGENET_MEAN, IMAGENET_STD, MaskedAutoencoder, create_model
from fastimae.objectives import OBJECTIVES, Objective
from fastimae.objectives.mixing import MixRatio


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainCase:
    """A model in training. i-MAE has a teacher of the student's size."""

    name: str
    objective: str
    model: str
    img_size: int
    batch_cuda: int
    """Batch size that fits on a GPU of 80 GB, for the plain pipeline too."""
    batch_cpu: int
    ladder: bool = True
    """Whether --ladder includes it beside the table; with --no_table it always does."""
    rounds_cuda: int = 7
    rounds_cpu: int = 3
    calls_cuda: int = 3
    """Steps per timing."""
    reciprocal: bool = False
    """Whether images of the made-up batch are each other's partners."""
    settings: tuple[tuple[str, Any], ...] = ()
    """Settings of the objective that are not its defaults, by name."""
    sizes: tuple[tuple[str, Any], ...] = ()
    """Arguments of `create_model` that are not the model's own, by name."""

    @property
    def has_plain(self) -> bool:
        """Whether the plain pipeline trains it, too."""
        return self.objective in ("mae", "imae") and not self.sizes

    def batch_size(self, device: torch.device) -> int:
        """Return the images (i-MAE: mixtures) per step."""
        return self.batch_cuda if device.type == "cuda" else self.batch_cpu

    def rounds(self, device: torch.device, *, ladder: bool = False) -> int:
        """Return the timings of each variant; one less for a ladder on a CPU, which has many."""
        if device.type == "cuda":
            return self.rounds_cuda
        return max(self.rounds_cpu - ladder, 1)

    def calls(self, device: torch.device) -> int:
        """Return the steps per timing."""
        return self.calls_cuda if device.type == "cuda" else 1


def _case(
    name: str, objective: str, model: str, batch_cuda: int, batch_cpu: int, **rest
) -> TrainCase:
    rest.setdefault("img_size", 224)
    return TrainCase(
        name=name, objective=objective, model=model, batch_cuda=batch_cuda, batch_cpu=batch_cpu,
        **rest,
    )  # fmt: skip


CROSSMAE = {
    "settings": (("predict_ratio", 0.25),),
    "sizes": (("decoder_attention", "cross"), ("decoder_depth", 12)),
}
"""CrossMAE's decoder, and the share of patches that it predicts (Fu et al., 2025)."""
PIXIO = {"sizes": (("class_tokens", 8), ("decoder_depth", 32))}
"""Pixio's class tokens and decoder (Yang et al., 2025)."""
CASES = {
    case.name: case
    for case in (
        _case("mae_vit_base_patch16", "mae", "mae_vit_base_patch16", 256, 16, ladder=False),
        _case("imae_vit_base_patch16", "imae", "mae_vit_base_patch16", 128, 8),
        _case("rmae_vit_base_patch16", "rmae", "mae_vit_base_patch16", 128, 8),
        _case("cmae_vit_base_patch16", "cmae", "mae_vit_base_patch16", 128, 8),
        _case(
            "crossmae_vit_base_patch16", "mae", "mae_vit_base_patch16", 256, 16, ladder=False,
            **CROSSMAE,
        ),
        _case(
            "imae_cross_vit_base_patch16", "imae", "mae_vit_base_patch16", 128, 8, ladder=False,
            **CROSSMAE,
        ),
        _case(
            "pixio_vit_base_patch16", "mae", "mae_vit_base_patch16", 128, 8, img_size=256,
            ladder=False, settings=(("mask_patch_size", 64),), **PIXIO,
        ),
        _case("imae_cifar10", "imae", "mae_vit_tiny_patch4", 1024, 128, img_size=32),
        _case("mae_vit_large_patch16", "mae", "mae_vit_large_patch16", 128, 8, ladder=False),
    )
}  # fmt: skip
SMOKE_CASES = {
    case.name: case
    for case in (
        _case("mae_vit_nano_patch8", "mae", "mae_vit_nano_patch8", 8, 8, img_size=32, rounds_cpu=2),
        _case(
            "imae_vit_nano_patch8", "imae", "mae_vit_nano_patch8", 8, 8, img_size=32, rounds_cpu=2
        ),
    )
}
ON_CPU = ("mae_vit_base_patch16", "imae_vit_base_patch16", "imae_cifar10")
"""Default cases on a CPU: the large model alone would take as long as these."""


def default_cases(device: torch.device, smoke: bool) -> tuple[str, ...]:
    """Name the cases to run by default."""
    if smoke:
        return tuple(SMOKE_CASES)
    return tuple(CASES) if device.type == "cuda" else ON_CPU


class CaseModels:
    """Builds the models of a case: see `fastimae.objectives.base.Models`."""

    def __init__(self, case: TrainCase, device: str) -> None:
        self.case, self.device = case, device

    def student(self, **sizes: Any) -> MaskedAutoencoder:
        """Make the model with fresh weights."""
        norm_pix = self.case.objective != "imae"  # as the papers have it
        given = {"norm_pix_loss": norm_pix, **dict(self.case.sizes), **sizes}
        with torch.device(self.device):
            return create_model(self.case.model, img_size=self.case.img_size, **given)

    def teacher(self, *_: object, **__: object) -> MaskedAutoencoder:
        """Make i-MAE's teacher, of the student's size."""
        return self.student()


def make_objective(case: TrainCase, device: str = "cpu") -> Objective:
    """Make the objective with the defaults of fastimae-train and fresh weights.

    The weights are the same in each call. device: "meta" makes sizes only; weights take seconds.
    """
    torch.manual_seed(0)
    kind = OBJECTIVES[case.objective]
    with quietly():
        return kind.load().build(kind.Settings(**dict(case.settings)), CaseModels(case, device))


def make_models(case: TrainCase, device: str = "cpu") -> tuple[MaskedAutoencoder, ...]:
    """Make the models of the objective: the student and, for i-MAE, the teacher."""
    objective = make_objective(case, device)
    return (objective.student, *(each.module for each in objective.teachers().values()))


@functools.cache
def train_flops(case: TrainCase) -> int:
    """Compute the operations of a step per image (i-MAE: per mixture), forward and backward.

    By FastIMAE's formula; i-MAE has two teacher passes, or one if pairs are reciprocal.
    """
    if case.reciprocal:
        case = dataclasses.replace(
            case, reciprocal=False, settings=(*case.settings, ("reciprocal_pairs", True))
        )
    return make_objective(case, "meta").train_flops()


def make_batch(case: TrainCase, size: int) -> Batch:
    """Make a batch of noise in host memory, pinned if there is CUDA.

    Its size must be even if partners are each other's.
    """
    side, generator = case.img_size, torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (size, side, side, 3), dtype=torch.uint8, generator=generator)
    tensors = {
        "images": images,
        "labels": torch.zeros(size, dtype=torch.int64),
        "index": torch.arange(size),
        "key": torch.arange(size) * 7919,
        "partner": torch.arange(size) ^ 1 if case.reciprocal else torch.arange(size).roll(1),
        "step_key": torch.tensor([1]),
    }
    return Batch(**{name: pinned(tensor) for name, tensor in tensors.items()})


def drawn_ratio(batch: Batch) -> float:
    """Draw i-MAE's weight of the subordinate image for a batch in host memory, as a number.

    The plain pipeline mixes there.
    """
    return MixRatio()(batch.key, batch.step_key)[0].item()


def pinned(tensor: Tensor) -> Tensor:
    """Return the tensor in page-locked memory if there is a GPU to copy it to."""
    return tensor.pin_memory() if torch.cuda.is_available() else tensor


def float_images(images: Tensor) -> Tensor:
    """Convert uint8 [B, H, W, 3] to what the plain pipeline uses: normalised fp32 [B, 3, H, W]."""
    return normalise(images, IMAGENET_MEAN, IMAGENET_STD).permute(0, 3, 1, 2).contiguous()
