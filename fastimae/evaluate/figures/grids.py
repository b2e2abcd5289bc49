"""Reconstructions over mixing and masking ratios, in pictures and in numbers.

The figures are those of the i-MAE paper (1, 3, 6 to 11) and of MAE: what a model makes of images
of which it sees little. Two views of each reconstruction are measured. "whole": every patch as it
was predicted in a pass in which it was masked. "pasted": predictions on masked patches, the true
image on visible ones, as MAE shows it; part of such a picture is right by construction.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from fastimae.engine.distributed import alone
from fastimae.evaluate.checkpoints import frozen
from fastimae.evaluate.figures.grid_figures import draw_all
from fastimae.evaluate.figures.quality import quality
from fastimae.evaluate.imae.mixtures import (
    Pairs,
    check_masks,
    check_pairs,
    clean_latents,
    mixture_latents,
    pairs,
)
from fastimae.evaluate.options import EvalOptions, results_folder
from fastimae.evaluate.origin import origin_of
from fastimae.evaluate.report.tables import markdown
from fastimae.evaluate.results import forget_results, save_results
from fastimae.kernels import Mask
from fastimae.log import log
from fastimae.models import MaskedAutoencoder
from fastimae.objectives.imae import BRANCHES
from fastimae.objectives.panels import (
    LEAK_NOTE,
    covering_masks,
    mask_out,
    mix_images,
    paste,
    predicted_images,
)
from fastimae.settings import ConfigError, InnerShare, MixShare, PositiveInt

VIEWS = ("pasted", "whole")
Ratios = tuple[float, float | None]  # of masking, of mixing (None for a MAE)


@dataclasses.dataclass(kw_only=True)
class ReconstructOptions(EvalOptions):
    """Reconstructions over mixing and masking ratios: pictures, MSE, PSNR, SSIM, FSIM."""

    mix_ratios: tuple[MixShare, ...] = (0.05, 0.15, 0.25, 0.35, 0.45)
    """Weights of the subordinate image; for i-MAE."""
    mask_ratios: tuple[InnerShare, ...] = (0.5, 0.6, 0.7, 0.75, 0.8, 0.9)
    """Shares of patches that are masked."""
    samples: PositiveInt = 64
    """Images that are measured."""
    pictures: PositiveInt = 3
    """How many of them, with their partners, the figures show."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """What a model makes of a batch at one pair of ratios; uint8 [B, H, W, C] all."""

    given: Tensor
    """The images, or their mixtures."""
    masked: Tensor
    """What of them the model sees."""
    truths: dict[str, Tensor]
    """By branch: "image" for a MAE, "subordinate" and "dominant" for i-MAE."""
    whole: dict[str, Tensor]
    """What was made of them, by branch."""
    pasted: dict[str, Tensor]
    """The same over the visible patches of the truth."""

    def first(self, count: int) -> Reconstruction:
        """The first images, on the CPU and in memory of their own."""
        cut = lambda images: images[:count].to("cpu", copy=True)  # noqa: E731
        return Reconstruction(
            given=cut(self.given),
            masked=cut(self.masked),
            **{
                name: {branch: cut(images) for branch, images in getattr(self, name).items()}
                for name in ("truths", "whole", "pasted")
            },
        )


def run(options: ReconstructOptions) -> None:
    """Reconstruct, draw, measure; writes results.json and figures."""
    options.check()
    with results_folder(options, "reconstruct") as folder:
        _measure_and_draw(options, folder)


def _measure_and_draw(options: ReconstructOptions, folder: Path) -> None:
    device = alone(options.device).device
    model = frozen(options.checkpoint, device, **options.of_model())
    origin = origin_of(options.checkpoint, model)
    check_masks(model, options.mask_ratios, "--mask_ratios")
    images = options.val_images() if options.val else options.train_images()
    check_pairs(images, options.batch_size, options.samples)
    mixing: Sequence[float | None] = options.mix_ratios if model.heads == 2 else (None,)
    cells = [(mask, mix) for mask in options.mask_ratios for mix in mixing]
    sums: dict[tuple[Ratios, str, str], dict[str, float]] = {}
    shown: dict[Ratios, Reconstruction] = {}
    measured = 0
    batches = pairs(
        images, model, samples=options.samples, batch_size=options.batch_size,
        workers=options.num_workers, device=device, seed=options.seed,
    )  # fmt: skip
    for batch in batches:
        measured += len(batch.images)
        for cell in tqdm(cells, unit="cell", desc="ratios"):
            result = reconstruct(model, batch, *cell)
            shown.setdefault(cell, result.first(options.pictures))
            add_up(sums, cell, result)
    if not measured:
        raise ConfigError(f"{images.source} has fewer than two images")
    table = [as_row(*key, sums[key], measured) for key in sums]
    note = notes(model)
    forget_results(folder)
    pictures = draw_all(shown, table, folder, options.pictures, note)
    numbers = {"table": table, "images": measured, "note": note}
    path = save_results(folder, "reconstruct", numbers, options, origin=origin, pictures=pictures)
    print(markdown([row for row in table if row["view"] == "whole"]))
    log.info("%s and pictures beside it", path)


@torch.no_grad()
def reconstruct(
    model: MaskedAutoencoder, batch: Pairs, mask_ratio: float, mix_ratio: float | None = None
) -> Reconstruction:
    """Every image of the batch reconstructed, and with two heads its partner, too.

    mix_ratio: weight of the image in its mixture with the partner, for a model with two heads.
    """
    drawn = batch.mask(model, mask_ratio)
    given, truths = batch.images, {"image": batch.images}
    if mix_ratio is not None:
        weight = torch.full((len(given),), mix_ratio, device=given.device)
        given = mix_images(given, batch.partner, weight)
        truths = dict(zip(BRANCHES, (batch.images, batch.images[batch.partner]), strict=True))
    whole: dict[str, Tensor] = {}
    pasted: dict[str, Tensor] = {}
    for mask in reversed(list(covering_masks(drawn))):  # the drawn one has the last word
        heads = _heads(model, batch, mask, mix_ratio)
        for (name, truth), head in zip(truths.items(), heads, strict=True):
            shown = predicted_images(model, model.decode(head, mask), truth)
            pasted[name] = paste(model, truth, shown, mask)
            whole[name] = paste(model, whole.get(name, shown), shown, mask)
    return Reconstruction(
        given=given, masked=mask_out(model, given, drawn), truths=truths, whole=whole, pasted=pasted
    )


def _heads(model: MaskedAutoencoder, batch: Pairs, mask: Mask, ratio: float | None) -> Tensor:
    if ratio is None:
        return clean_latents(model, batch, mask)[None]
    return mixture_latents(model, batch, mask, ratio)


def add_up(
    sums: dict[tuple[Ratios, str, str], dict[str, float]], cell: Ratios, result: Reconstruction
) -> None:
    """Add the measures of each picture to the sums of its cell, branch and view."""
    for branch, truth in result.truths.items():
        for view in VIEWS:
            total = sums.setdefault((cell, branch, view), {})
            for name, values in quality(getattr(result, view)[branch], truth).items():
                total[name] = total.get(name, 0.0) + float(values.sum())


def as_row(
    cell: Ratios, branch: str, view: str, sums: dict[str, float], images: int
) -> dict[str, Any]:
    """A line of the table: means over the images."""
    mask_ratio, mix_ratio = cell
    mixing = {} if mix_ratio is None else {"mix_ratio": mix_ratio}
    means = {name: value / images for name, value in sums.items()}
    return {"mask_ratio": mask_ratio, **mixing, "branch": branch, "view": view, **means}


def notes(model: MaskedAutoencoder) -> str:
    """What a reader of the pictures must know."""
    if model.norm_pix_loss:
        return f"{LEAK_NOTE}; pictures and numbers are better than the model alone could make them"
    return ""
