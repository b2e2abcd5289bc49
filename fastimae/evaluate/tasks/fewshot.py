"""fastimae-eval fewshot: logistic regression on features of a few labelled images per class."""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fastimae.evaluate.labels.accuracy import accuracy
from fastimae.evaluate.labels.few_labels import choose
from fastimae.evaluate.labels.logistic import logistic_regression
from fastimae.evaluate.labels.probe import ProbeData, probe_data
from fastimae.evaluate.labels.processes import joined_processes
from fastimae.evaluate.options.labels import FewshotOptions
from fastimae.evaluate.results import open_results
from fastimae.log import log
from fastimae.progress import tracked

FRACTION = 0.01
"""Share of the labels, unless --fraction or --shots is given."""


def run(options: FewshotOptions) -> None:
    """Write results.json: mean and standard deviation of acc1 and acc5 over the draws."""
    with (
        joined_processes(options) as world,
        open_results(options, "fewshot", world=world) as results,
    ):
        data = probe_data(options, world, results.folder)
        if not world.is_main:
            return
        numbers = {**fewshot(options, data), **data.sizes()}
        path = results.save(numbers, origin=data.origin)
        log.info("fewshot: acc1 %.2f +- %.2f %%, acc5 %.2f +- %.2f %% from %d labels; %s",
                 numbers["acc1"], numbers["acc1_std"], numbers["acc5"], numbers["acc5_std"],
                 numbers["labels"], path)  # fmt: skip


def fewshot(options: FewshotOptions, data: ProbeData) -> dict[str, Any]:
    """Return acc1 and acc5 in percent (means, deviations, each draw), and the number of labels."""
    draws = []
    for draw in tracked(range(options.draws), "fewshot", "draw"):
        chosen = choose(
            data.train.labels.numpy(),
            (options.seed, draw),
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


def _probe(data: ProbeData, chosen: NDArray[np.int64], c: float) -> dict[str, float]:
    train, labels = data.train.rows[chosen].numpy(), data.train.labels[chosen].numpy()
    probe = logistic_regression(c).fit(train, labels)
    known = probe.predict_log_proba(data.val.rows.numpy())
    scores = np.full((len(known), data.classes), -np.inf)  # classes without a label come last
    scores[:, probe.classes_] = known
    return accuracy(torch.from_numpy(scores), data.val.labels)
