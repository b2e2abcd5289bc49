"""fastimae-eval mixtureprobe: the class that a linear classifier reads from separated latents.

Ours, and not in a paper: how much of an image's class is left in the latent that i-MAE separates
from a mixture. The i-MAE paper's M_sem is another measurement, `fastimae-eval msem`.

The feature is the mean over patches of the latents of the mixture from the head for the subordinate
image (`decoder_embed` for a plain MAE, which has one head for both images); no patch is masked, as
in linear probing; a multinomial logistic regression on standardised features is fitted on mixtures
of training images, for each mixing ratio, and its top-1 accuracy is that on mixtures of other
images, in percent. The same is done for the dominant image's head and class.

N = images, E = width of a head's output.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastimae.engine.distributed import alone
from fastimae.evaluate.candidates import Candidate, candidates_of
from fastimae.evaluate.images import Images
from fastimae.evaluate.labels.class_names import check_two_classes, match_training
from fastimae.evaluate.labels.logistic import logistic_regression
from fastimae.evaluate.mixing.comparison import (
    Row,
    check_enough,
    pairs_of,
    rows_of,
)
from fastimae.evaluate.mixing.mask_units import check_masks, mask_columns, mask_unit_of
from fastimae.evaluate.mixing.mixtures import mixture_latents
from fastimae.evaluate.options.labels import LogisticSettings
from fastimae.evaluate.options.mixtures import MixtureprobeOptions
from fastimae.evaluate.origin import origin_of
from fastimae.evaluate.pages.tables import markdown
from fastimae.evaluate.results import Results, open_results
from fastimae.log import log
from fastimae.objectives.imae import BRANCHES
from fastimae.pictures.plots import lines_of, plain_style, plt, save_figure
from fastimae.settings import ConfigError

PICTURE = "mixtureprobe.png"
Key = tuple[int, float, str]
"""Candidate, mixing ratio, branch."""


class Labelled(NamedTuple):
    """Features, and the classes of the images that they are for."""

    features: NDArray[np.float32]
    """[N, E]"""
    labels: NDArray[np.int64]
    """[N]"""


def run(options: MixtureprobeOptions) -> None:
    """Measure, print the table, and write results.json and mixtureprobe.png."""
    with open_results(options, "mixtureprobe") as results:
        _measure_and_draw(options, results)


def _measure_and_draw(options: MixtureprobeOptions, results: Results) -> None:
    device = alone(options.device).device
    candidates = candidates_of(options, device)
    origin = origin_of(options.checkpoint, candidates[0].model)
    for candidate in candidates:
        unit = mask_unit_of(candidate, options.mask_patch_size)
        check_masks(candidate.model, [options.mask_ratio], "--mask_ratio", unit)
    train = options.train_images()
    val, _ = match_training(train, options.val_images())
    check_two_classes(train)
    check_enough(options, train, val)
    fit_on = collect(options, candidates, train, options.train_samples)
    test_on = collect(options, candidates, val, options.val_samples)

    def measure(candidate: int, ratio: float) -> dict[str, float]:
        keys = [(candidate, ratio, branch) for branch in BRANCHES]
        measured = {key[2]: accuracy(fit_on[key], test_on[key], options.c) for key in keys}
        if not options.mask_ratio:
            return measured
        unit = mask_unit_of(candidates[candidate], options.mask_patch_size)
        return mask_columns(candidates[candidate].model, options.mask_ratio, unit) | measured

    rows = rows_of(candidates, options.mix_ratios, measure)
    draw(rows, results.picture(PICTURE))
    first = [row["subordinate"] for row in rows if row["model"] == candidates[0].name]
    path = results.save({"mean_acc1": statistics.fmean(first), "table": rows}, origin=origin)
    print(markdown(rows))
    log.info("%s", path)


def collect(
    options: MixtureprobeOptions, candidates: Sequence[Candidate], images: Images, samples: int
) -> dict[Key, Labelled]:
    """Compute features of both branches, with the class of the image that each is for."""
    features: dict[Key, list[NDArray[np.float32]]] = {}
    labels: dict[str, list[NDArray[np.int64]]] = {branch: [] for branch in BRANCHES}
    for batch in pairs_of(options, images, candidates[0].model, samples):
        partners = batch.labels[batch.partner.cpu()]
        for branch, classes in zip(BRANCHES, (batch.labels, partners), strict=True):
            labels[branch].append(classes.numpy())
        for number, candidate in enumerate(candidates):
            unit = mask_unit_of(candidate, options.mask_patch_size)
            mask = batch.mask(candidate.model, options.mask_ratio, unit)
            for ratio in options.mix_ratios:
                latents = mixture_latents(candidate.model, batch, mask, ratio)
                heads = latents[:, :, candidate.model.class_tokens :].mean(2)
                # A MAE has one head for both branches.
                for branch, head in zip(BRANCHES, heads.expand(2, -1, -1), strict=True):
                    features.setdefault((number, ratio, branch), []).append(head.cpu().numpy())
    all_labels = {branch: np.concatenate(parts) for branch, parts in labels.items()}
    return {
        key: Labelled(np.concatenate(parts), all_labels[key[2]]) for key, parts in features.items()
    }


def accuracy(fit_on: Labelled, test_on: Labelled, c: float = LogisticSettings.c) -> float:
    """Return the top-1 accuracy of a logistic regression, in percent."""
    if len(np.unique(fit_on.labels)) < 2:
        raise ConfigError("training images of two classes or more are needed: --train_samples")
    classifier = logistic_regression(c).fit(*fit_on)
    return 100 * float(classifier.score(*test_on))


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw accuracy over mixing ratios: solid for the subordinate image, dashed for the other."""
    with plain_style():
        figure, axis = plt.subplots(figsize=(5.6, 3.8), layout="constrained")
        for line, color in lines_of(rows):
            x = [row["mix_ratio"] for row in line]
            label = f"{line[0]['model']} ({line[0]['kind']})"
            axis.plot(x, [row["subordinate"] for row in line], "o-", color=color, label=label)
            axis.plot(x, [row["dominant"] for row in line], "o--", color=color, alpha=0.6)
        axis.set(title="subordinate ——, dominant - - -", ylabel="top-1 accuracy (%)")
        axis.set_xlabel("mixing ratio of the subordinate image")
        axis.legend()
        save_figure(figure, path)
