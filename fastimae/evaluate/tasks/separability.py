"""fastimae-eval separability: linear separability of mixtures' latents, the i-MAE paper's M_ls.

The paper (equation 6, table 2): mix two images, take the latent of the subordinate one (from its
head in i-MAE; in a plain MAE the latent of the mixture), and measure its squared l2 distance to the
latent that a pre-trained MAE has of that image alone, before and after a linear regression.

Our reading, where the paper leaves room: latents are those after `decoder_embed`, where the
released heads are (after the encoder for `--head_space encoder`); mixture and image share a mask;
the distance is summed over the dimensions of a token and averaged over tokens (with the class
token) and images; one affine map for all tokens is fitted for each mixing ratio on training images
and tested on others. `unexplained` is the distance after the regression divided by the variance of
the targets, so that latents of different sizes can be compared; 1: no better than their mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fastimae.engine.distributed import alone
from fastimae.evaluate.candidates import NO_FLAGS, Candidate, candidates_of, load_frozen
from fastimae.evaluate.images import Images
from fastimae.evaluate.mixing.comparison import (
    Row,
    check_enough,
    lines_of,
    pairs_of,
    rows_of,
)
from fastimae.evaluate.mixing.mask_units import (
    check_masks,
    mask_columns,
    mask_unit_of,
    warn_of_other_units,
)
from fastimae.evaluate.mixing.mixtures import clean_latents, mixture_latents
from fastimae.evaluate.mixing.regression import (
    Affine,
    Moments,
    gradient_descent,
    least_squares,
)
from fastimae.evaluate.options.mixtures import SeparabilityOptions
from fastimae.evaluate.origin import origin_of
from fastimae.evaluate.pages.tables import markdown
from fastimae.evaluate.results import Results, open_results
from fastimae.log import log
from fastimae.models import MaskedAutoencoder
from fastimae.pictures.plots import legend_below, plain_style, plt, save_figure
from fastimae.settings import ConfigError

PICTURE = "separability.png"
COLUMNS = ("model", "masked", "mix_ratio", "before", "after_closed_form", "after_trained",
           "unexplained")  # fmt: skip


def run(options: SeparabilityOptions) -> None:
    """Measure, print the table, and write results.json and separability.png."""
    with open_results(options, "separability") as results:
        _measure_and_draw(options, results)


def _measure_and_draw(options: SeparabilityOptions, results: Results) -> None:
    device = alone(options.device).device
    teacher = load_frozen(options.teacher, device, hints=NO_FLAGS)
    candidates = candidates_of(options, device)
    origin = origin_of(options.checkpoint, candidates[0].model)
    for candidate in candidates:
        check_teacher(candidate, teacher)
    unit = mask_unit_of(candidates[0], options.mask_patch_size)
    target = Candidate(name="teacher", path=options.teacher, model=teacher, args=teacher.args)
    warn_of_other_units([*candidates, target], unit, options.mask_patch_size)
    check_masks(teacher, [options.mask_ratio], "--mask_ratio", unit)
    train, val = options.train_images(), options.val_images()
    check_enough(options, train, val)
    fit_on = collect(options, candidates, teacher, train, options.train_samples)
    test_on = collect(options, candidates, teacher, val, options.val_samples)
    masks = mask_columns(teacher, options.mask_ratio, unit)
    rows = rows_of(
        candidates, options.mix_ratios,
        lambda *key: masks | distances(fit_on[key], test_on[key], options.ridge, options.steps),
    )  # fmt: skip
    draw(rows, results.picture(PICTURE))
    path = results.save({"table": rows}, origin=origin)
    print(markdown(rows, COLUMNS))
    log.info("%s", path)


def check_teacher(candidate: Candidate, teacher: MaskedAutoencoder) -> None:
    """Raise ConfigError unless the distance between the two models' latents is defined."""
    if teacher.heads != 1:
        raise ConfigError("--teacher must be a plain MAE, not an i-MAE with two heads")
    model = candidate.model
    for what, student, target in (
        ("image size", model.img_size, teacher.img_size),
        ("patch size", model.patch_size, teacher.patch_size),
        ("channels", model.in_chans, teacher.in_chans),
        ("latent width", head_width(model), head_width(teacher, model.head_space)),
    ):
        if student != target:
            raise ConfigError(
                f"--teacher has another {what} ({target}) than {candidate.path} ({student}): "
                "there is no distance between their latents"
            )


def head_width(model: MaskedAutoencoder, space: str | None = None) -> int:
    """Return the width of the latents in a space; None: in that of the heads."""
    space = space or model.head_space
    return (model.pos_embed if space == "encoder" else model.mask_token).shape[-1]


def collect(
    options: SeparabilityOptions,
    candidates: Sequence[Candidate],
    teacher: MaskedAutoencoder,
    images: Images,
    samples: int,
) -> dict[tuple[int, float], Moments]:
    """Return the moments of mixtures' latents and the teacher's targets, by candidate and ratio."""
    unit = mask_unit_of(candidates[0], options.mask_patch_size)
    moments: dict[tuple[int, float], Moments] = {}
    for batch in pairs_of(options, images, teacher, samples):
        mask = batch.mask(teacher, options.mask_ratio, unit)
        for number, candidate in enumerate(candidates):
            target = clean_latents(teacher, batch, mask, candidate.model.head_space)
            for ratio in options.mix_ratios:
                latent = mixture_latents(candidate.model, batch, mask, ratio)[0]
                if (number, ratio) not in moments:
                    widths = latent.shape[-1], target.shape[-1]
                    moments[number, ratio] = Moments(*widths, device=latent.device)
                moments[number, ratio].add(latent, target)
    return moments


def distances(fit_on: Moments, test_on: Moments, ridge: float, steps: int) -> Row:
    """Compute M_ls before and after a regression that is fitted on one set of rows."""
    closed = test_on.distance(least_squares(fit_on, ridge))
    before = test_on.distance(Affine.identity(fit_on.inputs))
    spread = test_on.spread()
    return {
        "before": before,
        "after_closed_form": closed,
        "after_trained": test_on.distance(gradient_descent(fit_on, steps)),
        "unexplained_before": before / spread,
        "unexplained": closed / spread,
        "rows_fitted": fit_on.rows,
        "rows_measured": test_on.rows,
    }


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw distances over mixing ratios: dashed before, solid after, dots for the trained one."""
    with plain_style():
        figure, axes = plt.subplots(1, 2, figsize=(9, 4.2), layout="constrained")
        for line, color in lines_of(rows):
            x, name, kind = [row["mix_ratio"] for row in line], line[0]["model"], line[0]["kind"]
            label = name if kind == name else f"{name} ({kind})"
            axes[0].plot(x, [row["before"] for row in line], "--", color=color)
            axes[0].plot(x, [row["after_closed_form"] for row in line], color=color, label=label)
            axes[0].plot(x, [row["after_trained"] for row in line], ".", color=color)
            axes[1].plot(x, [row["unexplained"] for row in line], color=color)
        axes[0].set(yscale="log", title="before - - -, after —— (trained ···)")
        axes[0].set_ylabel("squared l2 distance to the clean latent")
        axes[1].set(title="after, relative to the best constant", ylim=(0, None))
        axes[1].set_ylabel("share unexplained")
        for axis in axes:
            axis.set_xlabel("mixing ratio of the subordinate image")
        legend_below(figure)
        save_figure(figure, path)
