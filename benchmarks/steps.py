"""Training steps: ours against the plain reference, on the same made-up images."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.harness import Timing, interleaved
from benchmarks.reference import PlainMAE, plain_imae_loss, plain_step
from fastimae.engine.optim import build_optimizer
from fastimae.engine.precision import resolve_precision
from fastimae.engine.step import Step
from fastimae.kernels.reference import normalise
from fastimae.loaders import Batch
from fastimae.models import MaskedAutoencoder, create_model, parse_name
from fastimae.objectives import IMAE, MAE

LAMBDA = 0.3
TRAINING_STEPS = 60


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """A model at a batch size that fits a GPU of 80 GB."""

    objective: str
    model: str
    img_size: int
    batch_size: int
    rounds: int = 5
    calls: int = 5

    @property
    def name(self) -> str:
        """As in the results: imae_vit_base_patch16."""
        return self.model if self.objective == "mae" else f"i{self.model}"


CASES = (
    Case(objective="mae", model="mae_vit_base_patch16", img_size=224, batch_size=256),
    Case(objective="imae", model="mae_vit_base_patch16", img_size=224, batch_size=128),
    Case(objective="mae", model="mae_vit_large_patch16", img_size=224, batch_size=128),
    Case(objective="imae", model="mae_vit_tiny_patch4", img_size=32, batch_size=1024),
)
SMOKE_CASES = tuple(
    Case(
        objective=objective, model="mae_vit_nano_patch8", img_size=32, batch_size=8, rounds=2,
        calls=1,
    )
    for objective in ("mae", "imae")
)  # fmt: skip


def measure_case(case: Case, device: torch.device) -> list[dict[str, object]]:
    """img/s of our step and of the reference steps, interleaved.

    Raises AssertionError if ours and the reference do not give the same loss.
    """
    check_same_loss(case, device)
    variants = {
        "fastimae": our_step(case, device),
        "reference": reference_step(case, device, sdpa=False),
        "reference_sdpa": reference_step(case, device, sdpa=True),
    }
    timings = interleaved(variants, device, rounds=case.rounds, calls=case.calls)
    rows = [_row(case, variant, timing) for variant, timing in timings.items()]
    for row in rows:
        row["x_reference"] = row["img_per_s"] / rows[1]["img_per_s"]
    variants.clear()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return rows


def check_same_loss(case: Case, device: torch.device) -> None:
    """The gate: ours and the reference give one loss, in fp32, for one mask and one mixture."""
    small = dataclasses.replace(case, batch_size=4)
    batch = make_batch(small).to(device)
    objective = make_objective(small).to(device)
    mask = objective.draw_mask(batch.key if case.objective == "mae" else batch)
    with torch.no_grad():
        ours = objective(batch, mask=mask)["loss"]
        theirs = ReferenceLoss(small, objective, batch, mask.mask, sdpa=False)(
            float_images(batch, objective.student)
        )
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def our_step(case: Case, device: torch.device) -> Callable[[], None]:
    """FastIMAE's step on a uint8 batch in host memory."""
    objective = make_objective(case).to(device)
    optimizer = build_optimizer(objective, 1e-4, 0.05)
    precision = resolve_precision("auto", device)
    host = make_batch(case)
    if device.type == "cuda":
        host.images = host.images.pin_memory()

    step = Step(objective, optimizer, precision=precision, device=device)
    return lambda: step([host.to(device)], 1e-4)


def reference_step(case: Case, device: torch.device, *, sdpa: bool) -> Callable[[], None]:
    """The plain step on normalised float images in host memory."""
    objective = make_objective(case)
    batch = make_batch(case)
    noise = torch.rand(case.batch_size, objective.student.grid[0] * objective.student.grid[1])
    images = float_images(batch, objective.student)
    if device.type == "cuda":
        images = images.pin_memory()
    loss_of = ReferenceLoss(case, objective, batch, noise, sdpa=sdpa, device=device)
    return plain_step(loss_of.student, loss_of, images)


class ReferenceLoss:
    """The plain loss with the weights of one of our objectives; calls take float images."""

    def __init__(
        self,
        case: Case,
        objective: MAE | IMAE,
        batch: Batch,
        noise: Tensor,
        *,
        sdpa: bool,
        device: torch.device | None = None,
    ) -> None:
        device = device or batch.images.device
        self.noise, self.partner = noise.to(device), batch.partner.to(device)
        self.student = _plain_copy(case, objective.student, sdpa).to(device)
        self.teacher = None
        if case.objective == "imae":
            self.teacher = _plain_copy(case, objective.teacher, sdpa).to(device).eval()

    def __call__(self, images: Tensor) -> Tensor:
        if self.teacher is None:
            return self.student(images, self.noise)
        return plain_imae_loss(self.student, self.teacher, images, self.partner, LAMBDA, self.noise)


def train_a_little(cases: tuple[Case, ...], device: torch.device) -> list[dict[str, object]]:
    """Losses of the first and last of some steps on one batch. Raises if a loss did not fall."""
    rows = []
    for objective in ("mae", "imae"):
        case = next(case for case in reversed(cases) if case.objective == objective)
        case = dataclasses.replace(case, batch_size=min(case.batch_size, 64))
        torch.manual_seed(0)
        module, batch = make_objective(case).to(device), make_batch(case).to(device)
        batch.images = smooth(batch.images)
        optimizer = build_optimizer(module, 1e-3, 0.05)
        step = Step(module, optimizer, precision=resolve_precision("auto", device), device=device)
        losses = [step([batch], 1e-3)[0]["loss"] for _ in range(TRAINING_STEPS)]
        first, last = losses[0].item(), losses[-1].item()
        if not last < 0.8 * first:
            raise RuntimeError(f"{case.name}: the loss went from {first} to {last}")
        rows.append({"case": case.name, "steps": TRAINING_STEPS, "first": first, "last": last})
    return rows


def make_objective(case: Case) -> MAE | IMAE:
    """Student and, for i-MAE, teacher with fresh weights."""
    torch.manual_seed(0)
    if case.objective == "mae":
        return MAE(create_model(case.model, img_size=case.img_size))
    student = create_model(case.model, img_size=case.img_size, heads=2)
    return IMAE(student, create_model(case.model, img_size=case.img_size), mix_lambda=LAMBDA)


def make_batch(case: Case) -> Batch:
    """Noise, in host memory."""
    size, side = case.batch_size, case.img_size
    generator = torch.Generator().manual_seed(0)
    return Batch(
        images=torch.randint(0, 256, (size, side, side, 3), dtype=torch.uint8, generator=generator),
        labels=torch.zeros(size, dtype=torch.int64),
        index=torch.arange(size),
        key=torch.arange(size) * 7919,
        partner=torch.arange(size).roll(1),
        step_key=torch.tensor([1]),
    )


def smooth(images: Tensor) -> Tensor:
    """Noise made learnable: each image one colour. uint8 [B, H, W, C]."""
    return images[:, :1, :1].expand_as(images).contiguous()


def float_images(batch: Batch, model: MaskedAutoencoder) -> Tensor:
    """The batch as the usual pipeline has it: normalised fp32 [B, 3, H, W]."""
    pixels = normalise(batch.images, model.mean, model.std)
    return pixels.permute(0, 3, 1, 2).contiguous()


def _plain_copy(case: Case, model: MaskedAutoencoder, sdpa: bool) -> PlainMAE:
    sizes = parse_name(case.model)
    plain = PlainMAE(img_size=case.img_size, heads=model.heads, sdpa=sdpa, **sizes)
    plain.load_state_dict(model.state_dict())
    return plain


def _row(case: Case, variant: str, timing: Timing) -> dict[str, object]:
    return {
        "case": case.name,
        "variant": variant,
        "batch_size": case.batch_size,
        "img_per_s": case.batch_size / timing.median,
        "ms": 1e3 * timing.median,
        "ms_20": 1e3 * timing.low,
        "ms_80": 1e3 * timing.high,
    }
