"""Does it train like the plain pipeline? `python -m benchmarks.train.curve --cifar F.beton`.

Trains i-MAE twice from the same weights, on the same crops, masks and mixtures: with the plain
pipeline, and with our step as fastimae-train runs it. Both losses must fall, and stay close.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.harness import BenchmarkReport, table
from benchmarks.plots import line_plot
from benchmarks.reference import PlainStep, mixture, usual_dtype
from benchmarks.train.cases import CASES, SMOKE_CASES, TrainCase, float_images, make_objective
from benchmarks.train.fastimae_step import FastImaeModels, FastImaeStep, training_step
from benchmarks.train.reference_step import ReferenceModels
from fastimae.arguments import command, parse
from fastimae.loaders import Batch, create_loader
from fastimae.loaders.order.sampler import endless
from fastimae.objectives import IMAE
from fastimae.streams import closed_early_is_fine

PROG = "python -m benchmarks.train.curve"
RATE, WARM_UP = 5e-4, 30
KEPT_EVERY = 20
"""Number of steps after which the losses so far are written."""
LARGEST_DIFFERENCE = 0.02
"""Largest relative difference, averaged over steps. Rounding differs, and the effect grows."""


@dataclasses.dataclass(kw_only=True)
class CurveOptions:
    """Train i-MAE with the plain pipeline and with ours, and compare the losses."""

    cifar: Path | None = None
    """CIFAR-10 as a .beton file; without it, smooth made-up images."""
    steps: int = 300
    """Steps to train."""
    batch_size: int = 256
    """Mixtures per step."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """cuda or cpu."""
    out: Path | None = None
    """JSON file for all losses; a plot is written beside it, as .png."""
    smoke: bool = False
    """A tiny model."""
    debug: bool = False
    """Show tracebacks."""


@command(PROG)
@closed_early_is_fine()
def main(argv: Sequence[str]) -> int:
    """Return 0 if both losses fall and agree, else 1."""
    options = parse(PROG, CurveOptions, argv)
    device = torch.device(options.device)
    case = SMOKE_CASES["imae_vit_nano_patch8"] if options.smoke else CASES["imae_cifar10"]
    report = BenchmarkReport(
        device, PROG, argv, options.out, case=case.name,
        data=options.cifar.name if options.cifar else "smooth made-up images",
        batch_size=options.batch_size,
    )  # fmt: skip
    report.keep()
    for losses in train_both(case, batches(case, options), device, options.steps):
        report |= verdict(losses) | {"curve": losses}
        report.keep()
    report.finish()
    if options.out:
        plot(report, options.out.with_suffix(".png"))
    print(markdown(report))
    return int(not report["passed"])


def batches(case: TrainCase, options: CurveOptions) -> Iterator[Batch]:
    """Yield the batches that both train on, in host memory."""
    source = {"ffcv": options.cifar} if options.cifar else {"synthetic": True}
    loader = create_loader(
        **source,
        input_size=(case.img_size, case.img_size),
        batch_size=options.batch_size,
        mix_group=0,
        num_workers=2,
    )
    with endless(loader):
        yield from loader


def train_both(
    case: TrainCase, source: Iterator[Batch], device: torch.device, steps: int
) -> Iterator[dict[str, list[float]]]:
    """Train with "reference" and "fastimae"; yield all losses so far every KEPT_EVERY steps."""
    objective = make_objective(case)
    plain = ReferenceModels(case, objective).to(device)
    objective.to(device)
    theirs = PlainStep(plain, plain.optimizer(False), dtype=usual_dtype(device))
    ours = training_step(FastImaeStep(), FastImaeModels(objective), device)
    losses: dict[str, list[Tensor]] = {"reference": [], "fastimae": []}
    for number, batch in zip(range(1, steps + 1), source, strict=False):
        rate = RATE * min(1, number / WARM_UP)
        batch = batch.to(device)
        losses["reference"].append(plain_step(plain, theirs, objective, batch, rate))
        losses["fastimae"].append(ours(batch, rate))
        if number % KEPT_EVERY == 0 or number == steps:
            yield {name: torch.stack(values).float().tolist() for name, values in losses.items()}


def plain_step(
    models: ReferenceModels, step: PlainStep, objective: IMAE, batch: Batch, rate: float
) -> Tensor:
    """Run a step of the plain pipeline on our batch, with our mask and our mixtures."""
    for group in step.optimizer.param_groups:
        group["lr"] = rate
    models.noise = objective.draw_mask(batch).mask
    alpha = objective.ratio(batch.key, batch.step_key)[0].item()
    return step(*mixture(float_images(batch.images), batch.partner, alpha))


def verdict(losses: dict[str, list[float]]) -> dict[str, object]:
    """Compare the curves: their mean difference, whether both fall, and whether they pass."""
    reference, ours = (torch.tensor(losses[name]) for name in ("reference", "fastimae"))
    apart = ((ours - reference).abs() / reference).mean().item()
    tenth = max(len(reference) // 10, 1)
    fell = all(curve[-tenth:].mean() < 0.9 * curve[:tenth].mean() for curve in (reference, ours))
    return {"difference": apart, "fell": fell, "passed": fell and apart < LARGEST_DIFFERENCE}


def markdown(report: dict) -> str:
    """Make the page of a report: some steps of both curves, and the verdict."""
    curve = report["curve"]
    last = len(curve["reference"]) - 1
    chosen = sorted({round(last * part / 6) for part in range(7)})
    rows = [
        {"step": at + 1} | {name: values[at] for name, values in curve.items()} for at in chosen
    ]
    word = "passed" if report["passed"] else "FAILED"
    return (
        f"{report['case']} on {report['data']}, batch {report['batch_size']}, untrained teacher\n\n"
        f"{table(rows)}\n{word}: the curves are {report['difference']:.3%} apart on average"
        f"{'' if report['fell'] else ', and a loss did not fall'}\n"
    )


def plot(report: dict, path: Path) -> None:
    """Plot both curves."""
    title = f"{report['case']} on {report['data']}, {report['device']}"
    with line_plot(path, title, "step", "loss") as axes:
        for (name, losses), style in zip(report["curve"].items(), ("-", "--"), strict=True):
            axes.plot(losses, style, label=name)


if __name__ == "__main__":
    sys.exit(main())
