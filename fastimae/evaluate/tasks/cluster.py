"""fastimae-eval cluster: k-means on features, and a file of labels for --pseudo_labels.

The i-MAE paper, section 3.3: "An alternative way to avoid using prior label information is
clustering the samples to identify the same or different classes". It does not say how. Here k-means
clusters the features of a pre-trained encoder, once, before the training that mixes by cluster: so
the pairs of an epoch stay a function of the seed. Ours, too: each dimension is standardised, as by
a linear probe, and each feature is then scaled to length 1, as for nearest neighbours.

N = images, D = feature width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from fastimae.engine.checkpoint_file import WEIGHTS, CheckpointError
from fastimae.engine.fail_together import fail_together
from fastimae.evaluate.clustering.agreement import agreement
from fastimae.evaluate.clustering.figures import draw_images, draw_sizes
from fastimae.evaluate.clustering.kmeans import (
    Clusters,
    distinct_rows,
    k_means,
    normalised,
)
from fastimae.evaluate.labels.feature_cache import Features
from fastimae.evaluate.labels.probe import feature_store
from fastimae.evaluate.labels.processes import joined_processes
from fastimae.evaluate.options.cluster import CLUSTERS, ClusterOptions
from fastimae.evaluate.origin import origin_of
from fastimae.evaluate.results import open_results
from fastimae.folders import FolderError
from fastimae.loaders.order.pseudo_labels import PseudoLabels
from fastimae.locks import file_to_write
from fastimae.log import log
from fastimae.settings import ConfigError


def run(options: ClusterOptions) -> None:
    """Write the file of labels, results.json and two pictures."""
    with (
        joined_processes(options) as world,
        open_results(options, "cluster", world=world) as results,
        contextlib.ExitStack() as locks,
    ):
        path = options.output or results.folder / CLUSTERS
        lost = FolderError("the main process cannot write to --output: see its message")
        with fail_together(world, lost):
            if world.is_main:
                locks.enter_context(file_to_write(path, "--output"))
        store = feature_store(options, world, results.folder)
        origin = origin_of(options.checkpoint, store.model)
        images = options.train_images()
        features = store.features(images)
        if not world.is_main:
            return
        check_features(features.rows, options)
        rows = normalised(features.rows.to(world.device))
        found = k_means(
            rows, options.k, seed=options.seed, tries=options.tries, iterations=options.iterations
        )
        positions = np.delete(np.arange(len(images)), features.skipped)
        labels = np.full(len(images), -1)
        labels[positions] = found.labels.cpu().numpy()
        PseudoLabels(
            labels=labels,
            clusters=options.k,
            data=images.identity(),
            images=str(images.source),
            checkpoint=str(options.checkpoint),
            weights=origin[WEIGHTS],
        ).write(path)
        numbers = numbers_of(found, features)
        draw_sizes(numbers["sizes"], results.picture("cluster_sizes.png"))
        draw_images(
            found, rows, images, positions, store.model, results.picture("cluster_images.png"),
            np.random.default_rng(options.seed), options.show_channels,
        )  # fmt: skip
        of_results = results.save({**numbers, "file": str(path)}, origin=origin)
        log.info("cluster: %s; %s, %s", _in_words(numbers), path, of_results)


def check_features(rows: Tensor, options: ClusterOptions) -> None:
    """Raise CheckpointError for features that are no numbers, ConfigError for too few images."""
    if wrong := int((~rows.isfinite()).any(1).sum()):
        raise CheckpointError(
            f"{options.checkpoint}: the features of {wrong} of {len(rows)} images are infinite or "
            "NaN: try --precision fp32, or another checkpoint"
        )
    if (distinct := distinct_rows(rows, options.k)) < options.k:
        raise ConfigError(
            f"--k {options.k} is more than there are distinct images: {distinct} of {len(rows)}"
        )


def numbers_of(found: Clusters, features: Features) -> dict[str, Any]:
    """Return the numbers of results.json; those about labels if all images have one."""
    clusters, labels = found.labels.cpu().numpy(), features.labels.numpy()
    sizes = np.bincount(clusters, minlength=len(found.centres))
    return {
        "images": len(features),
        "bad_images": features.bad,
        "clusters": len(sizes),
        "inertia": found.inertia,
        "iterations": found.iterations,
        "smallest": int(sizes.min()),
        "largest": int(sizes.max()),
        **(agreement(clusters, labels) if (labels >= 0).all() else {}),
        "sizes": sizes.tolist(),
    }


def _in_words(numbers: Mapping[str, Any]) -> str:
    """Describe the clusters in a line."""
    words = "{clusters} clusters of {smallest} to {largest} images".format_map(numbers)
    if "nmi" in numbers:
        words += ", NMI {nmi:.3f}, purity {purity:.3f}".format_map(numbers)
        words += ", {same_class_pairs:.3f} of the pairs in them share a class".format_map(numbers)
    return words
