"""What is trained: models, batch sizes, and a batch of made-up images."""

from __future__ import annotations

import dataclasses
import functools

import torch
from torch import Tensor

from fastimae.kernels.reference import normalise
from fastimae.loaders import Batch
from fastimae.models import IMAGENET_MEAN, IMAGENET_STD, MaskedAutoencoder, create_model
from fastimae.objectives import IMAE, MAE
from fastimae.objectives.mixing import MixRatio


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """A model in training. i-MAE has a teacher of the student's size."""

    name: str
    objective: str
    model: str
    img_size: int
    batch_cuda: int
    """Batch size that fits a GPU of 80 GB, for the plain pipeline too."""
    batch_cpu: int
    ladder: bool = True
    """Whether --ladder measures it beside the table; without the table it always does."""
    rounds_cuda: int = 7
    rounds_cpu: int = 3
    calls_cuda: int = 3
    """Steps of one timing."""

    def batch_size(self, device: torch.device) -> int:
        """Images (i-MAE: mixtures) of a step."""
        return self.batch_cuda if device.type == "cuda" else self.batch_cpu

    def rounds(self, device: torch.device, *, ladder: bool = False) -> int:
        """Timings of each variant; one less on a CPU where there are as many as in a ladder."""
        if device.type == "cuda":
            return self.rounds_cuda
        return max(self.rounds_cpu - ladder, 1)

    def calls(self, device: torch.device) -> int:
        """Steps of a timing."""
        return self.calls_cuda if device.type == "cuda" else 1


def _case(name: str, objective: str, model: str, batch_cuda: int, batch_cpu: int, **rest) -> Case:
    rest.setdefault("img_size", 224)
    return Case(
        name=name, objective=objective, model=model, batch_cuda=batch_cuda, batch_cpu=batch_cpu,
        **rest,
    )  # fmt: skip


CASES = {
    case.name: case
    for case in (
        _case("mae_vit_base_patch16", "mae", "mae_vit_base_patch16", 256, 16, ladder=False),
        _case("imae_vit_base_patch16", "imae", "mae_vit_base_patch16", 128, 8),
        _case("imae_cifar10", "imae", "mae_vit_tiny_patch4", 1024, 128, img_size=32),
        _case("mae_vit_large_patch16", "mae", "mae_vit_large_patch16", 128, 8, ladder=False),
    )
}
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
"""Cases that a run on a CPU takes by default: the large model would take as long as these."""


def default_cases(device: torch.device, smoke: bool) -> tuple[str, ...]:
    """Names of the cases to run where none is asked for."""
    if smoke:
        return tuple(SMOKE_CASES)
    return tuple(CASES) if device.type == "cuda" else ON_CPU


def make_objective(case: Case) -> MAE | IMAE:
    """Student and, for i-MAE, teacher with fresh weights, the same in each call; all else as
    fastimae-train has it by default."""
    torch.manual_seed(0)
    models = make_models(case)
    return IMAE(*models) if case.objective == "imae" else MAE(*models)


def make_models(case: Case) -> tuple[MaskedAutoencoder, ...]:
    """What the objective is made of: student and, for i-MAE, teacher."""
    make = functools.partial(create_model, case.model, img_size=case.img_size)
    return (make(heads=2), make()) if case.objective == "imae" else (make(norm_pix_loss=True),)


@functools.cache
def train_flops(case: Case) -> int:
    """Operations of a step, by the product's own formula: for one image, forward and backward;
    i-MAE: for one mixture, with two teacher passes."""
    with torch.device("meta"):  # sizes only: weights would take seconds to make
        models = make_models(case)
    return {"mae": MAE, "imae": IMAE}[case.objective](*models).train_flops()


def make_batch(case: Case, size: int) -> Batch:
    """Noise in host memory, pinned where there is CUDA."""
    side, generator = case.img_size, torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (size, side, side, 3), dtype=torch.uint8, generator=generator)
    tensors = {
        "images": images,
        "labels": torch.zeros(size, dtype=torch.int64),
        "index": torch.arange(size),
        "key": torch.arange(size) * 7919,
        "partner": torch.arange(size).roll(1),
        "step_key": torch.tensor([1]),
    }
    return Batch(**{name: pinned(tensor) for name, tensor in tensors.items()})


def drawn_ratio(batch: Batch) -> float:
    """Weight of the subordinate image that i-MAE draws for all mixtures of a batch in host memory,
    as a number: the plain pipeline mixes there."""
    return MixRatio()(batch.key, batch.step_key)[0].item()


def pinned(tensor: Tensor) -> Tensor:
    """The tensor in page-locked memory, where there is a GPU to copy it to."""
    return tensor.pin_memory() if torch.cuda.is_available() else tensor


def float_images(images: Tensor) -> Tensor:
    """uint8 [B, H, W, 3] as the plain pipeline has it: normalised fp32 [B, 3, H, W]."""
    return normalise(images, IMAGENET_MEAN, IMAGENET_STD).permute(0, 3, 1, 2).contiguous()
