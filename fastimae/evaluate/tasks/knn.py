"""fastimae-eval knn: weighted nearest neighbours of features; no training, so nothing to tune.

The method: Wu et al. (2018).
"""

from __future__ import annotations

from fastimae.evaluate.labels.accuracy import in_words
from fastimae.evaluate.labels.neighbours import knn_accuracy
from fastimae.evaluate.labels.probe import probe_data
from fastimae.evaluate.labels.processes import joined_processes
from fastimae.evaluate.options.labels import KnnOptions
from fastimae.evaluate.rankme import rankme
from fastimae.evaluate.results import open_results
from fastimae.log import log


def run(options: KnnOptions) -> None:
    """Write results.json: acc1, acc5 of the best k, and of each k; rankme of the test features."""
    with joined_processes(options) as world, open_results(options, "knn", world=world) as results:
        data = probe_data(options, world, results.folder)
        if not world.is_main:
            return
        by_k = knn_accuracy(
            data.train.rows.to(world.device), data.train.labels.to(world.device),
            data.val.rows.to(world.device), data.val.labels.to(world.device),
            classes=data.classes, ks=options.k, temperature=options.temperature,
        )  # fmt: skip
        best = max(by_k, key=lambda k: by_k[k]["acc1"])
        rank = rankme(data.val.rows.to(world.device))
        numbers = {**by_k[best], "k": best, "by_k": by_k, "rankme": rank, **data.sizes()}
        path = results.save(numbers, origin=data.origin)
        log.info("knn: %s with k = %d; %s", in_words(numbers), best, path)
