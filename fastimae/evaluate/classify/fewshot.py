"""Few labels: logistic regression on the features of a few training images of each class."""

from __future__ import annotations

import dataclasses
import statistics
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

from fastimae.engine.distributed import World
from fastimae.evaluate.class_names import check_two_classes
from fastimae.evaluate.classify.accuracy import accuracy
from fastimae.evaluate.classify.probe import ProbeData, ProbeOptions, probe_data
from fastimae.evaluate.images import Images
from fastimae.evaluate.options import joined, results_folder
from fastimae.evaluate.results import save_results
from fastimae.log import log
from fastimae.settings import PositiveFloat, PositiveInt

FRACTION = 0.01
"""Of the labels, where nobody says how many."""


@dataclasses.dataclass(kw_only=True)
class FewshotOptions(ProbeOptions):
    """Learn from a few labels: mean and deviation over several choices of them."""

    fraction: float | None = None
    """Share of each class's labels, at least one image. None: 0.01, unless --shots is given."""
    shots: PositiveInt | None = None
    """Labels of each class, instead of --fraction."""
    draws: PositiveInt = 5
    """How often to choose labels anew."""
    c: PositiveFloat = 1.0
    """scikit-learn's C of LogisticRegression: larger means less regularisation."""

    def check_images(self, train: Images, world: World) -> None:
        """As of `ProbeOptions`: a regression needs two classes."""
        check_two_classes(train)


def run(options: FewshotOptions) -> None:
    """Write results.json: mean and standard deviation of acc1 and acc5 over the draws."""
    _check(options)
    with joined(options) as world, results_folder(options, "fewshot", world=world) as folder:
        data = probe_data(options, world, folder)
        if not world.is_main:
            return
        numbers = {**fewshot(options, data), **data.sizes()}
        path = save_results(folder, "fewshot", numbers, options, origin=data.origin)
        log.info("fewshot: acc1 %.2f +- %.2f %%, acc5 %.2f +- %.2f %% from %d labels; %s",
                 numbers["acc1"], numbers["acc1_std"], numbers["acc5"], numbers["acc5_std"],
                 numbers["labels"], path)  # fmt: skip


def fewshot(options: FewshotOptions, data: ProbeData) -> dict[str, Any]:
    """acc1, acc5 (means, percent), their deviations, all draws, and the number of labels."""
    draws = []
    for draw in tqdm(range(options.draws), desc="fewshot", unit="draw"):
        rng = np.random.default_rng((options.seed, draw))
        chosen = choose(
            data.train.labels.numpy(),
            rng,
            fraction=options.fraction or FRACTION,
            shots=options.shots,
        )
        draws.append(_probe(data, chosen, options.c))
    numbers: dict[str, Any] = {"labels": len(chosen), "draws": draws}
    for name in ("acc1", "acc5"):
        values = [draw[name] for draw in draws]
        numbers[name] = statistics.fmean(values)
        numbers[f"{name}_std"] = statistics.stdev(values) if len(values) > 1 else 0.0
    return numbers


def choose(
    labels: NDArray[np.int64],
    rng: np.random.Generator,
    *,
    fraction: float = FRACTION,
    shots: int | None = None,
) -> NDArray[np.int64]:
    """Indices of a random choice that takes `shots` of each class, or `fraction`, at least one.

    A class with fewer images gives all of them. Ascending.
    """
    chosen = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = shots or max(1, round(fraction * len(members)))
        chosen.append(rng.permutation(members)[:count])
    return np.sort(np.concatenate(chosen))


def _probe(data: ProbeData, chosen: NDArray[np.int64], c: float) -> dict[str, float]:
    train, labels = data.train.rows[chosen].numpy(), data.train.labels[chosen].numpy()
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=1000))
    probe.fit(train, labels)
    known = probe.predict_log_proba(data.val.rows.numpy())
    scores = np.full((len(known), data.classes), -np.inf)  # classes that had no label come last
    scores[:, probe.classes_] = known
    return accuracy(torch.from_numpy(scores), data.val.labels)


def _check(options: FewshotOptions) -> None:
    if options.shots is not None and options.fraction is not None:
        raise ValueError("--shots and --fraction both say how many labels: give one")
    if options.fraction is not None and not 0 < options.fraction <= 1:
        raise ValueError("--fraction must lie in 0..1, without 0")
