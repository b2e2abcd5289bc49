"""Semantics of the latents of mixtures: M_sem of the i-MAE paper.

The paper's: how much of an image's class is left in the latent that i-MAE separates from a
mixture, told by a linear classifier.

Our reading: the feature is the mean over patches of what the head for the subordinate image makes
of the mixture (`decoder_embed` for a plain MAE, which has one head for both images); no patch is
masked, as in linear probing; a multinomial logistic regression on standardised features is fitted
on mixtures of training images, for each mixing ratio, and M_sem is its top-1 accuracy on mixtures
of other images, in percent. The same is done for the dominant image's head and class.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

from fastimae.engine.distributed import alone
from fastimae.evaluate.checkpoints import Contestant, load_contestants
from fastimae.evaluate.class_names import check_two_classes, match_training
from fastimae.evaluate.classify.fewshot import FewshotOptions
from fastimae.evaluate.figures.plots import COLORS, plain_style, plt, save_figure
from fastimae.evaluate.imae.mixtures import check_masks, check_pairs, mixture_latents, pairs
from fastimae.evaluate.imae.separability import SeparabilityOptions
from fastimae.evaluate.images import Images
from fastimae.evaluate.options import EvalOptions, results_folder
from fastimae.evaluate.origin import origin_of
from fastimae.evaluate.report.tables import markdown
from fastimae.evaluate.results import forget_results, save_results
from fastimae.log import log
from fastimae.objectives.imae import BRANCHES
from fastimae.settings import ConfigError, MixShare, PositiveFloat, PositiveInt

PICTURE = "msem.png"
Key = tuple[int, float, str]  # contestant, mixing ratio, branch


class Labelled(NamedTuple):
    """Features float32 [N, E] and labels int64 [N]."""

    features: NDArray[np.float32]
    labels: NDArray[np.int64]


@dataclasses.dataclass(kw_only=True)
class MsemOptions(EvalOptions):
    """Classes read off the latents of mixtures by a linear classifier (M_sem)."""

    others: tuple[Path, ...] = ()
    """More checkpoints for the table."""
    mix_ratios: tuple[MixShare, ...] = (0.1, 0.2, 0.3, 0.4)
    """Weights of the subordinate image."""
    mask_ratio: float = 0.0
    """Share of patches that is masked."""
    train_samples: PositiveInt = SeparabilityOptions.train_samples
    """Images that the classifier is fitted on."""
    val_samples: PositiveInt = SeparabilityOptions.val_samples
    """Images that accuracy is measured on."""
    c: PositiveFloat = FewshotOptions.c
    """scikit-learn's C of LogisticRegression: larger means less regularisation."""


def run(options: MsemOptions) -> None:
    """Measure, print the table, and write results.json and msem.png."""
    options.check()
    with results_folder(options, "msem") as folder:
        _measure(options, folder)


def _measure(options: MsemOptions, folder: Path) -> None:
    device = alone(options.device).device
    train = options.train_images()
    val, _ = match_training(train, options.val_images())
    check_two_classes(train)
    check_pairs(train, options.batch_size, options.train_samples, "--train_samples")
    check_pairs(val, options.batch_size, options.val_samples, "--val_samples")
    contestants = load_contestants(
        (options.checkpoint, *options.others), device, **options.of_model()
    )
    origin = origin_of(options.checkpoint, contestants[0].model)
    for contestant in contestants:
        check_masks(contestant.model, [options.mask_ratio], "--mask_ratio")
    fit_on = collect(options, contestants, train, options.train_samples)
    test_on = collect(options, contestants, val, options.val_samples)
    rows = [
        {
            "model": contestant.name, "kind": contestant.kind, "mix_ratio": ratio,
            **{
                branch: accuracy(fit_on[i, ratio, branch], test_on[i, ratio, branch], options.c)
                for branch in BRANCHES
            },
        }
        for i, contestant in enumerate(contestants)
        for ratio in options.mix_ratios
    ]  # fmt: skip
    forget_results(folder)
    draw(rows, folder / PICTURE)
    first = [row["subordinate"] for row in rows if row["model"] == contestants[0].name]
    numbers = {"msem": statistics.fmean(first), "table": rows}
    path = save_results(folder, "msem", numbers, options, origin=origin, pictures=[PICTURE])
    print(markdown(rows))
    log.info("%s", path)


def collect(
    options: MsemOptions, contestants: Sequence[Contestant], images: Images, samples: int
) -> dict[Key, Labelled]:
    """Features of both branches of mixtures, with the class of the image each is for."""
    model = contestants[0].model
    features: dict[Key, list[NDArray[np.float32]]] = {}
    labels: dict[str, list[NDArray[np.int64]]] = {branch: [] for branch in BRANCHES}
    batches = pairs(
        images, model, samples=samples, batch_size=options.batch_size,
        workers=options.num_workers, device=next(model.parameters()).device, seed=options.seed,
    )  # fmt: skip
    total = -(-min(samples, len(images)) // options.batch_size)
    for batch in tqdm(batches, total=total, desc=images.source.name, unit="batch"):
        partner = batch.partner.cpu()
        for branch, own in zip(BRANCHES, (batch.labels, batch.labels[partner]), strict=True):
            labels[branch].append(own.numpy())
        for i, contestant in enumerate(contestants):
            mask = batch.mask(contestant.model, options.mask_ratio)
            for ratio in options.mix_ratios:
                heads = mixture_latents(contestant.model, batch, mask, ratio)[:, :, 1:].mean(2)
                for number, branch in enumerate(BRANCHES):
                    head = heads[min(number, len(heads) - 1)].cpu().numpy()
                    features.setdefault((i, ratio, branch), []).append(head)
    if not features:
        raise ConfigError(f"{images.source} has fewer than two images to mix")
    joined = {branch: np.concatenate(parts) for branch, parts in labels.items()}
    return {key: Labelled(np.concatenate(rows), joined[key[2]]) for key, rows in features.items()}


def accuracy(fit_on: Labelled, test_on: Labelled, c: float = FewshotOptions.c) -> float:
    """Top-1 accuracy in percent of a logistic regression fitted on one and tested on the other."""
    if len(np.unique(fit_on.labels)) < 2:
        raise ConfigError("M_sem needs training images of two classes or more: --train_samples")
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=1000))
    classifier.fit(*fit_on)
    return 100 * float(classifier.score(*test_on))


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Accuracy over mixing ratios: solid for the subordinate image, dashed for the dominant."""
    names = list(dict.fromkeys(row["model"] for row in rows))
    with plain_style():
        figure, axis = plt.subplots(figsize=(5.6, 3.8), layout="constrained")
        for name, color in zip(names, COLORS * len(names), strict=False):
            own = [row for row in rows if row["model"] == name]
            x = [row["mix_ratio"] for row in own]
            label = f"{name} ({own[0]['kind']})"
            axis.plot(x, [row["subordinate"] for row in own], "o-", color=color, label=label)
            axis.plot(x, [row["dominant"] for row in own], "o--", color=color, alpha=0.6)
        axis.set(title="subordinate ——, dominant - - -", ylabel="top-1 accuracy (%)")
        axis.set_xlabel("mixing ratio of the subordinate image")
        axis.legend()
        save_figure(figure, path)
