"""How far clusters agree with labels.

N = images, K = clusters, C = classes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import normalized_mutual_info_score


def agreement(clusters: NDArray[np.int64], labels: NDArray[np.int64]) -> dict[str, float]:
    """Return how far the clusters of images agree with their labels, both int64 [N].

    "nmi": mutual information of the two, over the mean of their entropies. "purity": share of
    images whose class is the most frequent one of their cluster; it grows with the number of
    clusters. "same_class_pairs": share of pairs with one class, if each image is paired with
    another of its cluster at random; of --same_class_ratio 1 with these clusters, the share in
    terms of the labels. An image that is alone in its cluster is left out there.
    """
    counts, _ = contingency(clusters, labels)
    sizes = counts.sum(1)
    paired = sizes > 1
    partners = (counts * (counts - 1)).sum(1)[paired] / (sizes[paired] - 1)
    return {
        "nmi": float(normalized_mutual_info_score(labels, clusters)),
        "purity": float(counts.max(1).sum() / len(labels)),
        "same_class_pairs": float(partners.sum() / max(sizes[paired].sum(), 1)),
    }


def contingency(
    clusters: NDArray[np.int64], labels: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count the images of each class in each cluster, int64 [K, C]; also return the C labels."""
    classes, codes = np.unique(labels, return_inverse=True)
    shape = int(clusters.max()) + 1, len(classes)
    cells = clusters * len(classes) + codes
    return np.bincount(cells, minlength=np.prod(shape)).reshape(shape), classes
