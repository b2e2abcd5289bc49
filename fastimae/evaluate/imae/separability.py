"""Linear separability of the latents of mixtures: M_ls of the i-MAE paper (equation 6, table 2).

The paper's: mix two images, take the latent of the subordinate one (the head for it in i-MAE; in
a plain MAE the latent of the mixture), and measure its squared l2 distance to the latent that a
pre-trained MAE has of that image alone, before and after a linear regression.

Our reading, where the paper leaves room: latents are those after `decoder_embed`, where the
released heads live (after the encoder for `--head_space encoder`); mixture and image share a mask;
the distance is summed over the dimensions of a token and averaged over tokens (with the class
token) and images; one affine map serves all tokens, is fitted for each mixing ratio on training
images and measured on others. `unexplained` is the distance after the regression over the variance
of the targets, so that latents of other sizes can be compared; 1: no better than their mean.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from fastimae.engine.distributed import alone
from fastimae.evaluate.checkpoints import ELSEWHERE, Contestant, frozen, load_contestants
from fastimae.evaluate.figures.plots import COLORS, plain_style, plt, save_figure
from fastimae.evaluate.imae.mixtures import (
    check_masks,
    check_pairs,
    clean_latents,
    mixture_latents,
    pairs,
)
from fastimae.evaluate.imae.regression import (
    RIDGE,
    STEPS,
    Affine,
    Moments,
    gradient_descent,
    least_squares,
)
from fastimae.evaluate.images import Images
from fastimae.evaluate.options import EvalOptions, results_folder
from fastimae.evaluate.origin import origin_of
from fastimae.evaluate.report.tables import markdown
from fastimae.evaluate.results import forget_results, save_results
from fastimae.log import log
from fastimae.models import MaskedAutoencoder
from fastimae.models.mae import MASK_RATIO
from fastimae.settings import ConfigError, Count, MixShare, NotNegative, PositiveInt

PICTURE = "separability.png"
COLUMNS = ("model", "mix_ratio", "before", "after_closed_form", "after_trained", "unexplained")
Row = dict[str, Any]


@dataclasses.dataclass(kw_only=True)
class SeparabilityOptions(EvalOptions):
    """How far latents of mixtures are from those of clean images, up to a linear map (M_ls)."""

    teacher: Path
    """The MAE whose latents of clean images are the targets."""
    others: tuple[Path, ...] = ()
    """More checkpoints for the table: a baseline MAE, i-MAE without distillation, ..."""
    mix_ratios: tuple[MixShare, ...] = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45)
    """Weights of the subordinate image."""
    mask_ratio: float = MASK_RATIO
    """Share of patches that is masked."""
    train_samples: PositiveInt = 10_000
    """Images that the regression is fitted on."""
    val_samples: PositiveInt = 10_000
    """Images that distances are measured on."""
    ridge: NotNegative = RIDGE
    """Ridge of the closed form, as a share of the latents' variance."""
    steps: Count = STEPS
    """Steps of gradient descent of the trained regression."""


def run(options: SeparabilityOptions) -> None:
    """Measure, print the table, and write results.json and separability.png."""
    options.check()
    with results_folder(options, "separability") as folder:
        _measure(options, folder)


def _measure(options: SeparabilityOptions, folder: Path) -> None:
    device = alone(options.device).device
    teacher = frozen(options.teacher, device, hints=ELSEWHERE)
    contestants = load_contestants(
        (options.checkpoint, *options.others), device, **options.of_model()
    )
    origin = origin_of(options.checkpoint, contestants[0].model)
    for contestant in contestants:
        check_teacher(contestant, teacher)
    check_masks(teacher, [options.mask_ratio], "--mask_ratio")
    train, val = options.train_images(), options.val_images()
    check_pairs(train, options.batch_size, options.train_samples, "--train_samples")
    check_pairs(val, options.batch_size, options.val_samples, "--val_samples")
    fitted = collect(options, contestants, teacher, train, options.train_samples)
    held_out = collect(options, contestants, teacher, val, options.val_samples)
    rows = [
        {
            "model": contestant.name, "kind": contestant.kind, "mix_ratio": ratio,
            **distances(fitted[i, ratio], held_out[i, ratio], options.ridge, options.steps),
        }
        for i, contestant in enumerate(contestants)
        for ratio in options.mix_ratios
    ]  # fmt: skip
    forget_results(folder)
    draw(rows, folder / PICTURE)
    path = save_results(
        folder, "separability", {"table": rows}, options, origin=origin, pictures=[PICTURE]
    )
    print(markdown(rows, COLUMNS))
    log.info("%s", path)


def check_teacher(contestant: Contestant, teacher: MaskedAutoencoder) -> None:
    """Raises ConfigError where there is no distance between the two models' latents."""
    if teacher.heads != 1:
        raise ConfigError("--teacher must be a plain MAE, not an i-MAE with two heads")
    model = contestant.model
    for what, own, its in (
        ("image size", model.img_size, teacher.img_size),
        ("patch size", model.patch_size, teacher.patch_size),
        ("channels", model.in_chans, teacher.in_chans),
        ("latent width", head_width(model), head_width(teacher, model.head_space)),
    ):
        if own != its:
            raise ConfigError(
                f"--teacher has another {what} ({its}) than {contestant.path} ({own}): "
                "there is no distance between their latents"
            )


def head_width(model: MaskedAutoencoder, space: str | None = None) -> int:
    """Width of a head's output, or of the latents in the space named."""
    space = space or model.head_space
    return (model.pos_embed if space == "encoder" else model.mask_token).shape[-1]


def collect(
    options: SeparabilityOptions,
    contestants: Sequence[Contestant],
    teacher: MaskedAutoencoder,
    images: Images,
    samples: int,
) -> dict[tuple[int, float], Moments]:
    """Moments of (latent of the mixture, the teacher's of the image) by contestant and ratio."""
    moments: dict[tuple[int, float], Moments] = {}
    batches = pairs(
        images, teacher, samples=samples, batch_size=options.batch_size,
        workers=options.num_workers, device=next(teacher.parameters()).device, seed=options.seed,
    )  # fmt: skip
    total = -(-min(samples, len(images)) // options.batch_size)
    for batch in tqdm(batches, total=total, desc=images.source.name, unit="batch"):
        mask = batch.mask(teacher, options.mask_ratio)
        for i, contestant in enumerate(contestants):
            target = clean_latents(teacher, batch, mask, contestant.model.head_space)
            for ratio in options.mix_ratios:
                latent = mixture_latents(contestant.model, batch, mask, ratio)[0]
                if (i, ratio) not in moments:
                    widths = latent.shape[-1], target.shape[-1]
                    moments[i, ratio] = Moments(*widths, device=latent.device)
                moments[i, ratio].add(latent, target)
    if not moments:
        raise ConfigError(f"{images.source} has fewer than two images to mix")
    return moments


def distances(fitted: Moments, held_out: Moments, ridge: float, steps: int) -> Row:
    """M_ls before and after the regression fitted on one set of rows, measured on the other."""
    closed = held_out.distance(least_squares(fitted, ridge))
    before = held_out.distance(Affine.identity(fitted.inputs))
    spread = held_out.spread()
    return {
        "before": before,
        "after_closed_form": closed,
        "after_trained": held_out.distance(gradient_descent(fitted, steps)),
        "unexplained_before": before / spread,
        "unexplained": closed / spread,
        "rows_fitted": fitted.rows,
        "rows_measured": held_out.rows,
    }


def draw(rows: Sequence[Row], path: Path) -> None:
    """Distances over mixing ratios: dashed before, solid after, dots where trained."""
    names = list(dict.fromkeys(row["model"] for row in rows))
    with plain_style():
        figure, axes = plt.subplots(1, 2, figsize=(9, 4.2), layout="constrained")
        for name, color in zip(names, COLORS * len(names), strict=False):
            own = [row for row in rows if row["model"] == name]
            x = [row["mix_ratio"] for row in own]
            label = name if own[0]["kind"] == name else f"{name} ({own[0]['kind']})"
            axes[0].plot(x, [r["before"] for r in own], "--", color=color)
            axes[0].plot(x, [r["after_closed_form"] for r in own], color=color, label=label)
            axes[0].plot(x, [r["after_trained"] for r in own], ".", color=color)
            axes[1].plot(x, [r["unexplained"] for r in own], color=color)
        axes[0].set(yscale="log", title="before - - -, after —— (trained ···)")
        axes[0].set_ylabel("squared l2 distance to the clean latent")
        axes[1].set(title="after, relative to the best constant", ylim=(0, None))
        axes[1].set_ylabel("share unexplained")
        for axis in axes:
            axis.set_xlabel("mixing ratio of the subordinate image")
        figure.legend(loc="outside lower center", ncols=3)
        save_figure(figure, path)
