"""Embeddings: PCA against numpy, and clusters that must stay clusters."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from tiny import save_run, tiny_model
from toy_images import save_colours
from undrawn import undrawn

pytest.importorskip("sklearn")

from fastimae.engine.checkpoint import load_checkpoint, save_checkpoint
from fastimae.evaluate.features import features as features_of
from fastimae.evaluate.images import open_images
from fastimae.evaluate.options.figures import TsneOptions
from fastimae.evaluate.tasks import tsne
from fastimae.evaluate.tasks.tsne import (
    chosen_classes,
    chosen_images,
    embed,
    principal_components,
    run,
)
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


def test_measures_of_the_points_follow_their_formulas():
    """Trustworthiness (Venna and Kaski, 2001) of 12 neighbours, and Rousseeuw's silhouette (1987),
    point by point."""
    features, labels = clusters(apart=0.3, per_class=15)
    points, numbers = embed(features, labels, perplexity=10, seed=0)
    n, k = len(points), 12
    apart = [
        np.sqrt(((x[:, None] - x) ** 2).sum(-1))
        for x in (features.astype(float), points.astype(float))
    ]
    penalty, silhouettes = 0, []
    for i in range(n):
        near, shown = ([int(j) for j in np.argsort(rows[i]) if j != i] for rows in apart)
        penalty += sum(max(near.index(j) + 1 - k, 0) for j in shown[:k])
        means = [apart[1][i][(labels == label) & (np.arange(n) != i)].mean() for label in range(3)]
        within = means.pop(labels[i])
        silhouettes.append((min(means) - within) / max(min(means), within))
    wanted = 1 - 2 / (n * k * (2 * n - 3 * k - 1)) * penalty
    assert numbers["trustworthiness"] == pytest.approx(wanted, abs=1e-6) and wanted < 0.99
    assert numbers["silhouette_points"] == pytest.approx(np.mean(silhouettes), abs=1e-4)


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


def options_for(tmp_path, data, **changes):
    settings = {"num_workers": 0, "device": "cpu", "perplexity": 5, **changes}
    return TsneOptions(
        checkpoint=tmp_path / "mae" / "checkpoint-last.pth", data_path=data,
        output_dir=tmp_path / "out", **settings,
    )  # fmt: skip


def test_classes_are_a_function_of_the_seed(tmp_path):
    data = save_colours(tmp_path / "data", 10)
    images, drawn = open_images(data), set()
    for seed in range(12):
        options = options_for(tmp_path, data, classes=2, seed=seed)
        labels = chosen_classes(images, options)
        assert labels == chosen_classes(images, options) and len(set(labels)) == 2
        chosen = chosen_images(images, options, labels)
        assert chosen.tolist() == np.flatnonzero(np.isin(images.labels, labels)).tolist()
        some = chosen_images(images, dataclasses.replace(options, samples=17), labels)
        assert len(some) == 17 == len(set(some) & set(chosen))
        drawn.add(tuple(labels))
    assert drawn == {(0, 1), (0, 2), (1, 2)}
    assert chosen_classes(images, options_for(tmp_path, data)) == []
    assert len(chosen_images(images, options_for(tmp_path, data), [])) == 30


def test_classes_by_name_or_number(tmp_path):
    images = open_images(save_colours(tmp_path / "data", 10))
    options = options_for(tmp_path, tmp_path / "data", class_names=("c_blue", "a_red"))
    assert chosen_classes(images, options) == [2, 0]
    unnamed = images.with_labels(images.labels, [])
    numbers = dataclasses.replace(options, class_names=("1", "2"))
    assert chosen_classes(unnamed, numbers) == [1, 2]
    unlabelled = images.with_labels(np.full(30, -1), [])
    for asked, of, message in (
        ({"class_names": ("a_red", "gray")}, images, "--class_names gray: .* has no such class"),
        ({"class_names": ("3",)}, unnamed, "--class_names 3: .* has no such class"),
        ({"class_names": ("0",)}, images, r"\(it has a_red, b_green, c_blue, \.\.\.\)"),
        ({"class_names": ("0",)}, unlabelled, "has no such class, it has no labels"),
        ({"classes": 4}, images, "--classes 4: .* has 3 classes"),
        ({"classes": 4}, unlabelled, "--classes 4: .* has no labels"),
    ):
        with pytest.raises(ConfigError, match=message):
            chosen_classes(of, options_for(tmp_path, tmp_path / "data", **asked))
    with pytest.raises(ConfigError, match="--classes and --class_names both choose"):
        options_for(tmp_path, tmp_path, classes=2, class_names=("a",)).check()


def test_the_perplexity_is_that_of_the_hierarchical_paper():
    """Appendix C.5: PCA to 50 dimensions, a perplexity of 20."""
    assert (TsneOptions.perplexity, tsne.COMPONENTS) == (20, 50)


@undrawn()
def test_models_side_by_side_have_the_numbers_of_each_alone(tmp_path):
    data = save_colours(tmp_path / "data", 12)
    models = {"mae": tiny_model(), "other": tiny_model(depth=3)}
    paths = {name: save_run(tmp_path / name, model) for name, model in models.items()}
    content = load_checkpoint(paths["other"])
    content["model"] = {
        name: value for name, value in content["model"].items()
        if not name.startswith(("decoder", "mask_token"))
    }  # fmt: skip
    save_checkpoint(paths["other"], content)  # an encoder alone
    options = options_for(tmp_path, data, classes=2, others=(paths["other"],))
    run(options)
    numbers = json.loads((tmp_path / "out" / "results.json").read_text())["numbers"]
    saved = np.load(tmp_path / "out" / "points.npz")
    assert saved["points"].shape == (2, 24, 2) and saved["models"].tolist() == ["mae", "other"]
    images = open_images(data)
    labels = chosen_classes(images, options)
    assert numbers["classes"] == [images.classes[label] for label in labels]
    assert set(saved["labels"]) == set(labels)
    for row, (name, path) in zip(numbers["table"], paths.items(), strict=True):
        alone = dataclasses.replace(
            options, checkpoint=path, others=(), output_dir=tmp_path / "alone"
        )
        run(alone)
        found = json.loads((tmp_path / "alone" / "results.json").read_text())["numbers"]
        assert found.pop("classes") == numbers["classes"]
        assert row == {"model": name, **found}
    points = np.load(tmp_path / "alone" / "points.npz")["points"]
    assert np.array_equal(points, saved["points"][1])


@undrawn()
def test_the_silhouette_is_of_the_features(tmp_path):
    """By its definition, in float64, from features computed here."""
    data = save_colours(tmp_path / "data", 8)
    model = tiny_model()
    save_run(tmp_path / "mae", model)
    run(options_for(tmp_path, data))
    numbers = json.loads((tmp_path / "out" / "results.json").read_text())["numbers"]
    images = open_images(data)
    pixels = torch.stack([torch.from_numpy(np.array(images[i][0])) for i in range(24)])
    rows = features_of(model, pixels, "avg").double().numpy()
    apart = np.sqrt(((rows[:, None] - rows) ** 2).sum(-1))
    values = []
    for i, label in enumerate(images.labels):
        within = apart[i][(images.labels == label) & (np.arange(24) != i)].mean()
        nearest = min(apart[i][images.labels == o].mean() for o in {0, 1, 2} - {label})
        values.append((nearest - within) / max(nearest, within))
    assert numbers["silhouette_features"] == pytest.approx(np.mean(values), abs=1e-3)


def test_models_of_other_images_cannot_be_side_by_side(tmp_path):
    data = save_colours(tmp_path / "data", 8)
    save_run(tmp_path / "mae", tiny_model())
    large = save_run(tmp_path / "large", tiny_model(img_size=64))
    with pytest.raises(ConfigError, match=r"--others .*large.* has another image size \(64, 64\)"):
        run(options_for(tmp_path, data, others=(large,)))
