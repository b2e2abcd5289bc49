"""Nearest neighbours and accuracy against scikit-learn's, and the command as a whole."""

import json

import numpy as np
import pytest
import torch
from toy_images import save_mae, save_splits

from fastimae.cli import evaluate
from fastimae.evaluate.labels.accuracy import accuracy
from fastimae.evaluate.labels.neighbours import knn_accuracy

metrics = pytest.importorskip("sklearn.metrics")
neighbors = pytest.importorskip("sklearn.neighbors")


def clusters(count, classes=8, width=6, seed=0):
    """Features that overlap, and their labels."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(9).normal(size=(classes, width))
    labels = rng.integers(0, classes, count)
    rows = centres[labels] + 0.9 * rng.normal(size=(count, width))
    return torch.from_numpy(rows).float(), torch.from_numpy(labels)


def test_accuracy_is_scikit_learns():
    scores, labels = torch.randn(200, 9), torch.randint(0, 9, (200,))
    found = accuracy(scores, labels)
    for k in (1, 5):
        expected = metrics.top_k_accuracy_score(labels, scores, k=k, labels=range(9))
        assert found[f"acc{k}"] == pytest.approx(100 * expected)
    few = accuracy(scores[:, :3], labels % 3)
    assert few["acc5"] == 100 and 20 < few["acc1"] < 50


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_votes_are_scikit_learns(temperature, monkeypatch):
    monkeypatch.setattr("fastimae.evaluate.labels.neighbours.ROWS_AT_ONCE", 64)
    (train, labels), (val, true) = clusters(300), clusters(150, seed=1)
    ks = (1, 7, 40, 300)
    ours = knn_accuracy(
        train, labels, val, true, classes=8, ks=(*ks, 10_000), temperature=temperature
    )
    for k in ks:
        theirs = neighbors.KNeighborsClassifier(
            k, metric="cosine", algorithm="brute",
            weights=lambda distance: np.exp((1 - distance) / temperature),
        ).fit(train.double(), labels)  # fmt: skip
        scores = theirs.predict_proba(val.double())
        for top in (1, 5):
            expected = 100 * metrics.top_k_accuracy_score(true, scores, k=top, labels=range(8))
            # A tie among empty classes may be broken either way.
            assert ours[k][f"acc{top}"] == pytest.approx(expected, abs=1e-6 if k > 40 else 3), (
                k,
                top,
            )
        assert ours[k]["acc1"] == pytest.approx(100 * theirs.score(val.double(), true))
    assert ours[10_000] == ours[300]


def test_the_command_tells_colours_apart(tmp_path):
    save_mae(tmp_path / "mae.pth")
    save_splits(tmp_path / "data", 8)
    command = ["knn", "--checkpoint", str(tmp_path / "mae.pth")]
    command += ["--data_path", str(tmp_path / "data"), "--k", "3", "5", "--num_workers", "0"]
    assert evaluate([*command, "--device", "cpu"]) == 0
    assert evaluate([*command, "--device", "cpu", "--random_init", "--pool", "avg"]) == 0
    results = json.loads((tmp_path / "eval-knn" / "results.json").read_text())
    assert results["task"] == "knn" and results["checkpoint"] == str(tmp_path / "mae.pth")
    numbers = results["numbers"]
    assert numbers["acc1"] == numbers["acc5"] == 100 and set(numbers["by_k"]) == {"3", "5"}
    assert (numbers["train_images"], numbers["val_images"], numbers["classes"]) == (24, 12, 3)
    assert results["settings"]["k"] == [3, 5]
    assert torch.__version__.startswith(results["versions"]["torch"])
    random = json.loads((tmp_path / "eval-knn-random" / "results.json").read_text())
    assert random["settings"]["random_init"] is True
    assert len(list((tmp_path / "eval-features").iterdir())) == 4
