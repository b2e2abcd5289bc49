"""k-means against scikit-learn's from the same start, and its properties."""

import numpy as np
import pytest
import torch

from fastimae.evaluate.clustering import kmeans
from fastimae.evaluate.clustering.kmeans import (
    distinct_rows,
    k_means,
    lloyd,
    moments,
    normalised,
    plus_plus,
)

cluster = pytest.importorskip("sklearn.cluster")


def blobs(count=900, width=12, centres=6, apart=2.0, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(centres, size=count)
    rows = apart * rng.normal(size=(centres, width))[labels] + rng.normal(size=(count, width))
    return torch.from_numpy(rows).float(), labels


def inertia_of(rows, labels):
    """Sum of squared distances to the means of the clusters, in float64."""
    rows, labels = rows.double().numpy(), labels.numpy()
    return sum(
        ((rows[labels == label] - rows[labels == label].mean(0)) ** 2).sum()
        for label in np.unique(labels)
    )


@pytest.mark.parametrize("k", [2, 6, 40])
@pytest.mark.parametrize("chunk", [kmeans.CHUNK, 1000])
def test_from_the_same_start_it_is_scikit_learns(k, chunk, monkeypatch):
    monkeypatch.setattr(kmeans, "CHUNK", chunk)
    rows, _ = blobs()
    start = rows[torch.from_numpy(np.random.default_rng(k).permutation(len(rows))[:k])]
    found = lloyd(rows, start, 1000)
    theirs = cluster.KMeans(k, init=start.double().numpy(), n_init=1, tol=0, max_iter=1000)
    theirs.fit(rows.double().numpy())
    assert np.array_equal(found.labels.numpy(), theirs.labels_)
    assert found.iterations == theirs.n_iter_
    assert found.inertia == pytest.approx(theirs.inertia_, rel=1e-6)
    assert found.inertia == pytest.approx(inertia_of(rows, found.labels), rel=1e-6)
    assert np.allclose(found.centres, theirs.cluster_centers_, atol=1e-5)


def test_it_finds_groups_that_are_far_apart():
    rows, labels = blobs(apart=8.0)
    found = k_means(rows, 6, seed=0, tries=3, iterations=100)
    pairs = set(zip(found.labels.tolist(), labels.tolist(), strict=True))
    assert len(pairs) == 6
    assert found.inertia == pytest.approx(inertia_of(rows, torch.from_numpy(labels)), rel=1e-6)


def test_its_starts_are_as_good_as_scikit_learns():
    """k-means++ leaves less than random rows do, and about what scikit-learn's leaves."""
    rows, _ = blobs(count=2000, centres=30, apart=3.0)

    def left(centres):
        return torch.cdist(rows, centres).square().min(1).values.sum().item()

    rng = np.random.default_rng(0)
    ours = [left(plus_plus(rows, 30, rng)) for _ in range(5)]
    any_rows = [left(rows[torch.from_numpy(rng.permutation(2000)[:30])]) for _ in range(5)]
    theirs = [
        left(torch.from_numpy(cluster.kmeans_plusplus(rows.numpy(), 30, random_state=s)[0]))
        for s in range(5)
    ]
    assert max(ours) < min(any_rows) and np.mean(ours) < 1.1 * np.mean(theirs)


def test_more_starts_are_no_worse_and_the_seed_decides():
    rows, _ = blobs(count=1500, centres=25)
    one, several, again = (
        k_means(rows, 25, seed=4, tries=tries, iterations=50) for tries in (1, 4, 4)
    )
    assert several.inertia <= one.inertia
    assert torch.equal(several.labels, again.labels) and several.inertia == again.inertia
    assert torch.equal(several.centres, again.centres)
    other = k_means(rows, 25, seed=5, tries=1, iterations=50)
    assert not torch.equal(other.labels, one.labels)


def test_an_empty_cluster_gets_the_farthest_row():
    rows = torch.tensor([[0.0, 0], [0, 1], [1, 0], [9, 9], [8, 9]])
    far = torch.tensor([[0.0, 0], [500, 0], [0, 500]])  # two of them are nobody's nearest
    found = lloyd(rows, far, 100)
    assert torch.bincount(found.labels, minlength=3).min() > 0
    assert found.labels[3] == found.labels[4] or len(set(found.labels.tolist())) == 3
    assert found.inertia == pytest.approx(inertia_of(rows, found.labels), rel=1e-6)
    first = lloyd(rows, far, 1)  # (9, 9) is farthest from (0, 0), then (8, 9)
    assert len({first.labels[index].item() for index in (0, 3, 4)}) == 3


@pytest.mark.parametrize("seed", range(5))
def test_no_cluster_is_empty_with_as_many_distinct_rows(seed):
    rng = np.random.default_rng(seed)
    rows = torch.from_numpy(rng.integers(0, 3, (400, 3))).float()
    k = distinct_rows(rows, 1000)
    assert k == len(np.unique(rows.numpy(), axis=0))
    found = k_means(rows, k, seed=seed, tries=1, iterations=50)
    assert torch.bincount(found.labels, minlength=k).min() > 0
    assert found.inertia == pytest.approx(0, abs=1e-9)


def test_counting_distinct_rows_ends_early():
    assert distinct_rows(torch.zeros(50, 4), 9) == 1
    assert distinct_rows(torch.eye(50), 9) == 9


def test_features_are_standardised_and_of_length_1(monkeypatch):
    monkeypatch.setattr(kmeans, "CHUNK", 500)
    rows, _ = blobs(count=333)
    rows = 100 + rows * torch.arange(1, 13)
    rows[:, 3] = 7.1
    rows[:, 5] = 0
    mean, variance = moments(rows)
    exact = rows.double().numpy()
    assert np.allclose(mean, exact.mean(0)) and np.allclose(variance, exact.var(0), atol=1e-9)
    wanted = (exact - exact.mean(0)) / np.where(exact.std(0) < 1e-9, np.inf, exact.std(0))
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    assert np.allclose(normalised(rows), wanted, atol=1e-6)
    assert (normalised(rows)[:, [3, 5]] == 0).all()
    assert (normalised(torch.full((4, 3), 0.1)) == 0).all()
