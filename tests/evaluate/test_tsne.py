"""Embeddings: PCA against numpy, and clusters that must stay clusters."""

import json

import numpy as np
import pytest
from tiny import save_run, tiny_model

pytest.importorskip("sklearn")

from fastimae.evaluate.tasks.tsne import TsneOptions, embed, principal_components, run
from fastimae.settings import ConfigError


def clusters(apart, per_class=40, width=64, seed=0):
    rng = np.random.default_rng(seed)
    centres = apart * rng.standard_normal((3, width))
    labels = np.repeat(np.arange(3), per_class)
    features = centres[labels] + rng.standard_normal((len(labels), width))
    return features.astype(np.float32), labels


def test_principal_components_are_numpys():
    features, _ = clusters(1.0)
    reduced = principal_components(features)
    assert reduced.shape == (120, 50)
    centred = features.astype(np.float64) - features.mean(0)
    left, singular, _ = np.linalg.svd(centred, full_matrices=False)
    wanted = (left * singular)[:, :50]
    assert np.allclose(np.abs(reduced), np.abs(wanted), atol=1e-2)
    assert principal_components(features[:, :7]).shape == (120, 7)


def test_clusters_stay_clusters_and_noise_stays_noise():
    features, labels = clusters(apart=3.0)
    points, numbers = embed(features, labels, perplexity=15, seed=0)
    assert points.shape == (120, 2) and numbers["images"] == 120
    centres = np.stack([points[labels == label].mean(0) for label in range(3)])
    nearest = np.linalg.norm(points[:, None] - centres, axis=-1).argmin(1)
    assert (nearest == labels).mean() > 0.98
    assert numbers["silhouette_points"] > 0.5 and numbers["trustworthiness"] > 0.8
    noise = np.random.default_rng(1).standard_normal(features.shape).astype(np.float32)
    _, numbers = embed(noise, labels, perplexity=15, seed=0)
    assert numbers["silhouette_points"] < 0.1
    again, _ = embed(features, labels, perplexity=15, seed=0)
    assert np.array_equal(points, again)


def test_labels_of_one_kind_have_no_silhouette():
    features, _ = clusters(1.0, per_class=10)
    _, numbers = embed(features, np.full(30, -1), perplexity=100, seed=0)
    assert "silhouette_points" not in numbers and numbers["perplexity"] == pytest.approx(29 / 3)


def test_run_writes_points_and_picture(tmp_path, image_folder):
    options = TsneOptions(
        checkpoint=save_run(tmp_path, tiny_model()), data_path=image_folder, device="cpu",
        num_workers=0, samples=30, perplexity=5,
    )  # fmt: skip
    run(options)
    folder = tmp_path / "eval-tsne"
    numbers = json.loads((folder / "results.json").read_text())["numbers"]
    saved = np.load(folder / "points.npz")
    assert saved["points"].shape == (30, 2) and numbers["images"] == 30
    assert set(saved["labels"]) == {0, 1, 2, 3}
    assert (folder / "tsne.png").stat().st_size > 5000
    options.samples = 5
    with pytest.raises(ConfigError, match="--samples"):
        run(options)
